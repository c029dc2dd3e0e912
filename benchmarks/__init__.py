"""Benchmarks, with the figures that they measured."""
