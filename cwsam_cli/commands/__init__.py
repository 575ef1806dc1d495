"""One thin file a command: parse, call one pipeline, print."""
