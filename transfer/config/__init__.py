"""The configuration of a run: its schema, the command line, protocols and rules that choose settings."""
