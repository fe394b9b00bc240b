"""Which parameters decay."""

from typing import Any

from torch import nn


def parameter_groups(network: nn.Module, *, decay_norm_and_bias: bool) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: weights, and what is exempt from weight decay.

    The paper decays everything. Later recipes exempt biases and normalisation (arXiv 1812.01187):
    both are the parameters with fewer than two dimensions.

    Returns:
        One group, or two of which the second has `weight_decay` 0.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    if decay_norm_and_bias:
        return [{"params": parameters}]
    weights = [p for p in parameters if p.ndim > 1]
    exempt = [p for p in parameters if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": exempt, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
