"""What torch runs on a GPU and not on a CPU, for a step on fake tensors: those must be a CPU's,
because without a GPU torch runs no backward pass on fake tensors that claim to be on one."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode


class FusedDropout(TorchFunctionMode):
    """Dropout that keeps a mask of a byte an element; a CPU's mask is as wide as its input."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (_dropout if func is F.dropout else func)(*args, **(kwargs or {}))


def take_all_at_once(optimizer: Optimizer) -> None:
    """Have the optimiser take all parameters at once, with temporary copies as large as they are
    together, if it can and nobody chose otherwise."""
    for group in optimizer.param_groups:
        if group.get("foreach", False) is None and not group.get("fused"):
            group["foreach"] = True


def _dropout(values: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
    if training and not inplace and 0 < p < 1:
        return torch.native_dropout(values, p, training)[0]
    return F.dropout(values, p, training, inplace)
