"""Networks of the rivals in plain PyTorch, written from the definitions of the originals."""
