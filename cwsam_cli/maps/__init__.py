"""Maps and other class rasters: what their codes mean, and reading them in parts."""
