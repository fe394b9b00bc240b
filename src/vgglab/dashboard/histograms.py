"""Histograms of weights and gradients, counted where they lie: what travels is a few numbers."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import torch
from annotated_types import Ge
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from vgglab.networks import layer_names
from vgglab.networks.vgg import VGG
from vgglab.reporting.tensorboard import boards

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

log = logging.getLogger(__name__)

_TIMES = 10  # in a run; TensorBoard draws them one behind the other
_BUCKETS = 64  # TensorBoard draws 30
_SAMPLE = 1 << 16  # of fc6's 103 million weights 65,536 show the same shape


class Histogram(NamedTuple):
    """How many values lie in each of equal buckets from the smallest value to the largest."""

    low: float
    high: float
    counts: list[float]


class Histograms(Callback):
    """Shows how the weights and the gradients of each layer are distributed, and how that moves.

    Both are those of one optimiser step, just before it is made: the gradients are whole
    (accumulated, averaged over all processes, not scaled) and not yet clipped. A layer whose
    numbers are not all finite is left out of that step, as are gradients that were skipped.

    Args:
        every_n_steps: optimiser steps from one histogram to the next, the first step included.
            None: a tenth of the run.
    """

    def __init__(self, every_n_steps: Annotated[int, Ge(1)] | None = None) -> None:
        self.every_n_steps = every_n_steps
        self._layers: dict[str, nn.Parameter] = {}
        self._cadence = 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._layers = {}
        if not (boards(trainer) and trainer.is_global_zero):
            return
        steps = float(trainer.estimated_stepping_batches)
        self._cadence = self.every_n_steps or math.ceil(steps / _TIMES)
        layers = layer_weights(pl_module.network)  # type: ignore[arg-type]
        if any(isinstance(weight, DTensor) for weight in layers.values()):
            log.warning(
                "no histograms: the weights lie in parts on several devices "
                "(accelerator=ddp keeps them whole)"
            )
            return
        self._layers = layers

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if not self._layers or trainer.global_step % self._cadence:
            return
        values: dict[str, Tensor] = {}
        for name, weight in self._layers.items():
            values[f"weights/{name}"] = weight
            if weight.grad is not None:
                values[f"gradients/{name}"] = weight.grad
        counted = zip(values, count(list(values.values())), strict=True)
        histograms = {tag: histogram for tag, histogram in counted if histogram is not None}
        summary = _summary(histograms)
        for board in boards(trainer):
            # The step that is being made, counted from 0: `global_step` has not moved yet.
            board.write(summary, trainer.global_step)


def layer_weights(network: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of the convolutions and dense layers that are trained, in forward order.

    By the paper's names (`conv1_1`, `fc6`) where the network is a VGG, else by module path.
    """
    names = {}
    if isinstance(network, VGG):
        names = {path: name for name, path in layer_names(network).items()}
    return {
        names.get(path, path): module.weight
        for path, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
        and isinstance(module.weight, nn.Parameter)
        and module.weight.requires_grad
    }


@torch.no_grad()
def count(tensors: Sequence[Tensor]) -> list[Histogram | None]:
    """The tensors' histograms, by one transfer from their device.

    Of a tensor of more than 65,536 values, evenly spaced ones are counted for all, but its
    smallest and largest value are exact.

    Args:
        tensors: of one device, floating point, of any shape but empty.

    Returns:
        A histogram a tensor; None where a value is not finite.
    """
    counts = torch.zeros(len(tensors), _BUCKETS, device=tensors[0].device)
    ranges = []
    for tensor, row in zip(tensors, counts, strict=True):
        # Channels-last tensors lie so in memory: no copy is made.
        values = (tensor if tensor.is_contiguous() else tensor.movedim(1, -1)).flatten()
        low, high = values.aminmax()
        sample = values[:: _spacing(len(values))].float()
        share = (sample - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
        buckets = (share * _BUCKETS).long().clamp_(0, _BUCKETS - 1)
        row.scatter_add_(0, buckets, torch.ones_like(sample))
        ranges += [low, high]
    numbers = torch.cat([torch.stack(ranges).float(), counts.flatten()]).cpu()
    found: list[Histogram | None] = []
    for row, tensor in enumerate(tensors):
        low, high = numbers[2 * row : 2 * row + 2].tolist()
        counted = numbers[2 * len(tensors) :][row * _BUCKETS :][:_BUCKETS].double()
        counted *= tensor.numel() / counted.sum()
        finite = math.isfinite(low) and math.isfinite(high)
        found.append(Histogram(low, high, counted.tolist()) if finite else None)
    return found


def _spacing(size: int) -> int:
    """Such that at most `_SAMPLE` values are taken, and never those of one column alone."""
    spacing = math.ceil(size / _SAMPLE)
    while math.gcd(spacing, size) > 1:
        spacing += 1
    return spacing


def _summary(histograms: Mapping[str, Histogram]) -> "Summary":
    """In TensorBoard's own form, of half the size of `add_histogram_raw`'s older one, whose
    checksum is most of the cost."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_FLOAT
    from tensorboard.plugins.histogram.metadata import create_summary_metadata

    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in (_BUCKETS, 3)])
    summary = Summary()
    for tag, (low, high, counts) in histograms.items():
        if low == high:
            low, high = low - 0.5, high + 0.5  # TensorBoard needs a width
        edges = np.linspace(low, high, _BUCKETS + 1)
        rows = np.stack([edges[:-1], edges[1:], counts], 1).astype("<f4")
        summary.value.add(
            tag=tag,
            metadata=create_summary_metadata(display_name=tag, description=""),
            tensor=TensorProto(dtype=DT_FLOAT, tensor_shape=shape, tensor_content=rows.tobytes()),
        )
    return summary
