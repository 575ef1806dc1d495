"""Several processes as one run: launching, watching, sharing out."""
