"""Augmentation, normalisation and target generation, inside the jitted step."""
