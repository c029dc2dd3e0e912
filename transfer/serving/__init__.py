"""A bundle behind HTTP: what a request may ask for, what it is answered, and the page for a person."""
