"""Measuring trained networks."""
