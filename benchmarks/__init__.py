"""Measurements and predictions, run from the repository root: `python -m benchmarks.a64fx.loops`."""
