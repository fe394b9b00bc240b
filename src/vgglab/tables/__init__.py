"""The paper's tables, from the networks and from trained checkpoints."""
