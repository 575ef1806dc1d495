"""Check that the splits of a dataset are apart on the ground."""
