"""The linear probe: features in a file, penalties, the optimum."""
