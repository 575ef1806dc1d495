"""Say what the machine and the files are, what is odd about them, and whether they fit: `doctor` and `info`."""
