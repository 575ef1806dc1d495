"""Prove that the splits of a dataset are honest."""
