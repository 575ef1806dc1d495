"""Several processes that make maps: on a Dask cluster, or as parts of one command."""
