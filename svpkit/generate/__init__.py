"""Noise -> particles: what learns a class, draws it, and judges what was drawn."""
