"""Vector layers: reading and writing. Loads no torch."""
