"""Metrics that are counted on the device and summed on the host."""
