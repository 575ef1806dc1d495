"""What a run needs before it starts: parameters and memory of each GPU."""
