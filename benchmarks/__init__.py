"""Speed of our programs beside the same programs in plain PyTorch; see `benchmarks.run`."""
