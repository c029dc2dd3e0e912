"""A dataset: the facts of its sheet, its splits, and what is checked before anything is trained on it."""
