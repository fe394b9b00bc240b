"""What a training run will need and cost, before it is paid for."""
