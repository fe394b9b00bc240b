"""Running on many devices."""
