"""Labels of any kind, brought onto the grid of a scene."""
