"""The network; it knows pixels and classes, no geography and no distribution."""
