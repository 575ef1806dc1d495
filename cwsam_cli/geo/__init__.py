"""Rasters, vectors and the ground between them; numpy, never torch."""
