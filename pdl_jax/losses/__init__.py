"""Losses of the systems, pure functions on arrays."""
