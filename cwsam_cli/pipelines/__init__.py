"""The guts of each command: paths and settings in, files and a result out."""
