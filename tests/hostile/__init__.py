"""Hostile inputs, built by code: nothing of them lies in the repository."""
