"""Readers of published datasets, one file per format."""
