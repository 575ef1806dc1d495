"""Add scenes to a dataset that exists: `tile --append`."""
