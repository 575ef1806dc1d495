"""How pytest runs the tests marked `gpu1` where only torch, numpy, PyYAML and pytest are installed."""

GPU1 = ("-q", "-m", "gpu1", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", "-o", "filterwarnings=")
"""Options of the project's own configuration need plugins of pytest, so they are replaced."""
