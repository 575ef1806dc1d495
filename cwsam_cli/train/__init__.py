"""Train a model: the command `train`."""
