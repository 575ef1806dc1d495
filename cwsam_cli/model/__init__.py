"""The network. It handles pixels and classes, but neither geography nor several processes."""
