"""A training run's loader against torchvision's, stage by stage, and against the network."""
