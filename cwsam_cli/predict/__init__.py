"""Scenes to maps: the command `predict`."""
