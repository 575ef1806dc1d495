"""Model files, and the weights that a run starts from."""
