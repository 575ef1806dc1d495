"""Grow a checkpoint into a larger model: the command `upcycle`."""
