"""Experiments and measurements: not installed, and never imported by what is."""
