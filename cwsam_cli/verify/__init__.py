"""Measure the accuracy of any map, from a sample or a reference: `eval --sample` and `eval --map`."""
