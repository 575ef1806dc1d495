"""How weights learn: losses, optimizer, checkpoints."""
