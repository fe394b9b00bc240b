"""Callbacks that draw for TensorBoard."""
