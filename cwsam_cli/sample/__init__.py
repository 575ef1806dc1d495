"""Draw a probability sample from a map: the command `sample`."""
