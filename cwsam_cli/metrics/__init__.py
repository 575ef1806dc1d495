"""The confusion matrix, the scores that follow from it, and the pass over a dataset that fills it."""
