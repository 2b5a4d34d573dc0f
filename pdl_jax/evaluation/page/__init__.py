"""The report page: one HTML file that needs no server, no network and no other file."""
