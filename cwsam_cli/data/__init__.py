"""The dataset between `cwsam tile` and `cwsam train`: its description, its split, its samples."""
