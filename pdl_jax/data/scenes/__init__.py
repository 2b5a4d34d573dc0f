"""Generated scenes: a dataset that needs no download."""
