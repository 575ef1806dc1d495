"""Maps to polygons: the command `vectorize`."""
