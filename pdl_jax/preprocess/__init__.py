"""What happens to a sample inside the jitted step: augmentation, normalisation and target generation."""
