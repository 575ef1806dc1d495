"""Scenes and labels to a dataset: the command `tile`."""
