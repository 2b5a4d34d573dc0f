"""Losses of the systems as pure functions on arrays."""
