"""One step of training: losses, optimizer, stages. Training runs it; planning imagines it."""
