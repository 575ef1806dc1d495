"""One training step: losses, optimizer, stages. `train` runs it and `plan` simulates it."""
