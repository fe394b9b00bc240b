"""A run: the LightningModule, optimisers and schedules, callbacks, checkpoints."""
