"""Particles to classes: how imbalance is met, training, and scoring the locked test set."""
