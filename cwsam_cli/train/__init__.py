"""A training run: the command `train`."""
