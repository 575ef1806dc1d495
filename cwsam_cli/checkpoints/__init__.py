"""Read and write model files, and find the weights that a run starts from."""
