"""Paths, checksums and checkpoints, local or on gs://."""
