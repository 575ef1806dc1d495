"""Probability samples of a map: their design, their file, and the estimates that follow from them."""
