"""Compute the confusion matrix of a model on a dataset, and the metrics that follow from it."""
