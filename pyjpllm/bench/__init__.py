"""Measurements of this machine, and of what it makes of a training step."""
