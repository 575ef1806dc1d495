"""Rasters: grids, reading, sources, styles. Loads no torch."""
