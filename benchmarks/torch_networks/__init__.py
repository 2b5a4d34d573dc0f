"""The rivals' networks in plain PyTorch, written from the definitions of the originals."""
