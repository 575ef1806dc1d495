"""Estimate a run before it starts: parameters, operations and memory of each GPU."""
