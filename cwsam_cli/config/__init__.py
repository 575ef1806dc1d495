"""The configuration of a run: its schema, and how YAML is read."""
