"""What the devices send each other in one training step, by strategy."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from vgglab.cluster.sharding import blocks_of, dense_layers
from vgglab.config.schema import AcceleratorConfig

Kind = Literal["all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all"]
Role = Literal["parameters", "parameters again", "gradients", "features", "other"]

# Rings: a reduction's sums and what is gathered pass each device but one.
_ROUNDS = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "broadcast": 1, "all_to_all": 1}
# DistributedDataParallel's buckets: the first one small, so that it is under way early.
_FIRST_BUCKET, _BUCKET = 1 << 20, 25 << 20
# Bytes of a number; 4 where nothing else is said.
_PARAMETER = {"bf16-true": 2, "16-true": 2, "64-true": 8}
_ACTIVATION = {"bf16-mixed": 2, "16-mixed": 2}
_DECISIONS = (4, 8)  # whether all go on, and whether all gradients are finite


@dataclass(frozen=True)
class Collective:
    """What a group of devices sends each other at once."""

    kind: Kind
    bytes: int
    """Of the whole tensor: what is reduced, what is gathered in the end, what is scattered."""
    group_size: int
    role: Role = "other"
    """What it carries. Parameters come beside the forward pass, or again beside the backward pass,
    and gradients go beside that; the devices wait for all else."""
    covers: int = 0
    """Bytes of the device's layers' parameters, as stored, that it brings, or whose gradients it
    completes."""

    @property
    def wire_bytes(self) -> float:
        """What one device sends in a ring."""
        n = self.group_size
        return self.bytes * _ROUNDS[self.kind] * (n - 1) / n


def collectives(
    network: nn.Module,
    accelerator: AcceleratorConfig,
    world_size: int,
    tensor_parallel: int,
    batch_size_per_device: int,
    precision: str,
) -> list[Collective]:
    """What one training step without accumulation issues, the same on every device.

    PowerSGD's steps are those after `powersgd_start_step`; those before are ddp's. Synchronised
    batch norm is counted from torch's source (torch/nn/modules/_functions.py), all else was
    counted in running processes. Empty for one device.

    Args:
        network: its shapes count, so it may lie on meta.
        accelerator: the strategy.
        world_size: all devices.
        tensor_parallel: how many of them share fc6 and fc7, under hybrid.
        batch_size_per_device: images of each device.
        precision: Lightning's name.
    """
    if world_size == 1 or accelerator.strategy == "auto":
        return []
    size = _PARAMETER.get(precision, 4)
    going_on, finite = (Collective("all_reduce", size, world_size) for size in _DECISIONS)
    issued = [going_on]
    if accelerator.sync_batchnorm:
        issued += _synchronised_batch_norm(network, world_size, max(size, 4))
    if accelerator.strategy == "ddp":
        issued += _buffers(network, world_size, size)
        issued += _gradients(network, accelerator, world_size, size)
    elif accelerator.strategy == "fsdp":
        issued += _fully_sharded(network, world_size, size)
    else:
        images = batch_size_per_device * tensor_parallel * _ACTIVATION.get(precision, size)
        issued += _hybrid(network, world_size, tensor_parallel, size, images)
    return [*issued, finite]


def _buffers(network: nn.Module, world_size: int, size: int) -> Iterator[Collective]:
    """DDP sends the first process's batch-norm statistics before each step, by type."""
    numbers: Counter[int] = Counter()
    for buffer in network.buffers():
        numbers[size if buffer.is_floating_point() else buffer.element_size()] += buffer.numel()
    for bytes_each, count in numbers.items():
        yield Collective("broadcast", bytes_each * count, world_size)


def _gradients(
    network: nn.Module, accelerator: AcceleratorConfig, world_size: int, size: int
) -> Iterator[Collective]:
    sent = 2 if accelerator.gradient_compression == "bf16" else size
    for bucket in _buckets(network, size):
        whole = sum(shape.numel() for shape in bucket)
        parts = [whole]
        if accelerator.gradient_compression == "powersgd":
            parts = _power_sgd(bucket, accelerator.powersgd_rank)
        covers = size * whole  # all by the first part: the others follow it at once
        for numbers in parts:
            yield Collective("all_reduce", sent * numbers, world_size, "gradients", covers)
            covers = 0


def _buckets(network: nn.Module, size: int) -> Iterator[list[torch.Size]]:
    bucket: list[torch.Size] = []
    limit = _FIRST_BUCKET
    for parameter in reversed([p for p in network.parameters() if p.requires_grad]):
        bucket.append(parameter.shape)
        if sum(shape.numel() for shape in bucket) * size >= limit:
            yield bucket
            bucket, limit = [], _BUCKET
    if bucket:
        yield bucket


def _power_sgd(shapes: Sequence[torch.Size], rank: int) -> list[int]:
    """Numbers sent as they are, and in the thin matrices P and Q of the others."""
    plain = p = q = 0
    for shape in shapes:
        rows, columns = shape[0], shape[1:].numel()
        thin = min(rows, columns, rank)
        if 2 * (rows + columns) * thin < rows * columns:  # PowerSGDState's min_compression_rate
            p += rows * thin
            q += columns * thin
        else:
            plain += rows * columns
    return [plain, p, q]


def _fully_sharded(network: nn.Module, world_size: int, size: int) -> Iterator[Collective]:
    blocks = []
    for block in blocks_of(network):
        shapes = _shapes(block)
        covers = size * sum(shape.numel() for shape in shapes)
        blocks.append((size * _padded(shapes, world_size), covers))
    for padded, covers in blocks:
        yield Collective("all_gather", padded, world_size, "parameters", covers)
    for index, (padded, covers) in enumerate(reversed(blocks)):
        if index:  # the last block stays whole between the passes
            yield Collective("all_gather", padded, world_size, "parameters again", covers)
        yield Collective("reduce_scatter", padded, world_size, "gradients", covers)


def _hybrid(
    network: nn.Module, world_size: int, tensor_parallel: int, size: int, images: int
) -> Iterator[Collective]:
    """`images`: the bytes of one feature of all images that a group sees."""
    fc6, fc7, _ = dense_layers(network)
    forward: list[Collective] = []
    backward: list[Collective] = []  # the last one first
    for block in blocks_of(network):
        shapes, group = _shapes(block), world_size
        covers = size * sum(shape.numel() for shape in shapes)
        if block[0] in (fc6, fc7):
            group //= tensor_parallel
            covers //= tensor_parallel
            across = 0 if block[0] is fc6 else 1  # fc7's bias is whole on all
            shapes = [_split(shape, across, tensor_parallel) for shape in shapes]
        parameters = size * _padded(shapes, group)
        forward.append(Collective("all_gather", parameters, group, "parameters", covers))
        backward.append(Collective("reduce_scatter", parameters, group, "gradients", covers))
        if block[0] is fc6:
            features = fc6.in_features * images
            forward.append(Collective("all_gather", features, tensor_parallel, "features"))
            backward.append(Collective("reduce_scatter", features, tensor_parallel, "features"))
        elif block[0] is fc7:
            features = fc7.out_features * images
            forward.append(Collective("reduce_scatter", features, tensor_parallel, "features"))
            backward.append(Collective("all_gather", features, tensor_parallel, "features"))
    for collective in (*forward, *reversed(backward)):
        if collective.group_size > 1:
            yield collective


def _synchronised_batch_norm(
    network: nn.Module, world_size: int, size: int
) -> Iterator[Collective]:
    layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for layer in layers:  # mean, deviation and number of values of each device
        numbers = world_size * (2 * layer.num_features + 1)
        yield Collective("all_gather", size * numbers, world_size)
    for layer in reversed(layers):
        yield Collective("all_reduce", size * 2 * layer.num_features, world_size)


def _shapes(block: Iterable[nn.Module]) -> list[torch.Size]:
    return [p.shape for module in block for p in module.parameters(recurse=False)]


def _split(shape: torch.Size, dimension: int, parts: int) -> torch.Size:
    if dimension >= len(shape):
        return shape
    return torch.Size(n // parts if i == dimension else n for i, n in enumerate(shape))


def _padded(shapes: Iterable[torch.Size], devices: int) -> int:
    """Numbers in tensors of these shapes when FSDP2 has made their rows divisible."""
    return sum(math.ceil(shape[0] / devices) * devices * shape[1:].numel() for shape in shapes)
