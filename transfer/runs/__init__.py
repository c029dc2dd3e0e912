"""A run's folder, its results, and the trained classifier it holds."""
