"""Show scenes, maps and polygons in the browser: the command `view`."""
