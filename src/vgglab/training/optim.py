"""Which parameters decay, and how far their gradients may reach."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


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


def is_sharded(parameters: Iterable[Tensor]) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in parameters)


def clip_sharded(parameters: Sequence[Tensor], limit: float, *, by_value: bool) -> None:
    """Clip the gradients of parameters that lie in parts on several devices, as in one process.

    torch's own functions do so for one mesh of devices; `strategy=hybrid` has two.

    Args:
        parameters: with gradients, the same ones on all devices.
        limit: of the norm of all gradients together or, `by_value`, of each number's magnitude.
        by_value: which.
    """
    by_mesh = defaultdict(list)
    for parameter in parameters:
        by_mesh[getattr(parameter, "device_mesh", None)].append(parameter)
    if by_value:
        for group in by_mesh.values():
            nn.utils.clip_grad_value_(group, limit)
        return
    norms = [_norm([p.grad for p in group if p.grad is not None]) for group in by_mesh.values()]
    total = torch.linalg.vector_norm(torch.stack(norms))
    for group in by_mesh.values():
        nn.utils.clip_grads_with_norm_(group, limit, total)


def _norm(gradients: list[Tensor]) -> Tensor:
    norm = nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def local_part(tensor: Tensor) -> Tensor:
    """What of a tensor lies on this device."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
