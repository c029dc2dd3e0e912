"""Benchmarks, beside the figures they wrote."""
