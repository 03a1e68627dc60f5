"""The command line: parses and prints; all it does has a Python function of the same name."""
