"""Pictures for people, drawn on the host."""
