"""Paths, checksums and checkpoints, on local disks or on gs://."""
