"""Land-cover maps with Segment Anything, from laptop to cluster."""

__version__ = "0.1.0"
