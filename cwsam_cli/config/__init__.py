"""What a run is told to do: the schema, and how YAML becomes it."""
