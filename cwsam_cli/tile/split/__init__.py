"""Which ground belongs to which split, and the buffer between splits."""
