"""One sheet per dataset: its facts, its source and its licence."""
