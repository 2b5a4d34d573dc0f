"""What the speed claims are measured with: our programs beside the same ones in plain PyTorch, in turn; see `benchmarks.run`."""
