"""What is measured side by side, for scripts/benchmark.py."""
