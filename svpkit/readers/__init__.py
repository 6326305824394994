"""Formats of instruments and tables, from files to particles."""
