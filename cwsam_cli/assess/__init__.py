"""Measure a checkpoint's accuracy on a dataset: the command `eval`."""
