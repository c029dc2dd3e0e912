"""Public weights: a row per checkpoint, files, key names, and the network built from them."""
