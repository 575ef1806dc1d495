"""Regions of equal class code: their sizes, and the smallest mapping unit."""
