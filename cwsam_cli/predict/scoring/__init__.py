"""A model as a function from windows to scores."""
