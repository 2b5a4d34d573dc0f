"""Memory, time and communication of compiled programs on given chips."""
