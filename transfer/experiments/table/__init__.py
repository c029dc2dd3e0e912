"""A table of results: cells of dataset, backbone, protocol and seed; how they are planned, run and shared out."""
