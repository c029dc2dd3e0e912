"""What is shipped of a finished network: its formats, and how each is opened."""
