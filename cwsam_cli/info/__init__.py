"""Say what a model, a map or a dataset is and where it comes from: the command `info`."""
