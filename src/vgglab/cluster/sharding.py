"""A network's parameters in parts on many devices, and whole again."""

from typing import Any, Literal

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from vgglab.errors import InputError
from vgglab.networks.vgg import SkippedPool


def shard_fully(network: nn.Module, mesh: DeviceMesh) -> None:
    """Give each of `mesh` a part of every parameter; a block is gathered where it is used (FSDP2).

    Args:
        network: on its device; changed in place, its parameters become DTensors.
        mesh: of one dimension, all devices.
    """
    *blocks, last = blocks_of(network)
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(last, mesh=mesh, reshard_after_forward=False)  # the backward pass begins with it
    _complete(network, mesh)


def shard_hybrid(network: nn.Module, mesh: DeviceMesh, groups: DeviceMesh) -> None:
    """One weird trick (Krizhevsky, arXiv 1404.5997): convolutions share the data, fc6 and fc7 the
    model.

    Each device has its own images. The devices of a group gather their features, each computes its
    part of fc6 and fc7 for all of them, and gives back what belongs to the others' images.

    Args:
        network: as in `shard_fully`, with three dense layers (see `dense_layers`).
        mesh: of one dimension, all devices.
        groups: `data_parallel` times `tensor_parallel`, the same devices.
    """
    fc6, fc7, _ = dense_layers(network)
    group = groups["tensor_parallel"]
    _average_over(group.size(), fc6, fc7)
    parallelize_module(fc6, group, ColwiseParallel(input_layouts=Shard(0)))
    parallelize_module(fc7, group, RowwiseParallel(output_layouts=Shard(0)))
    for module in network.classifier.modules():  # type: ignore[union-attr]
        if isinstance(module, nn.ReLU):
            module.inplace = False  # what a DTensor leaves is a view, which autograd protects
    for block in blocks_of(network):
        within = groups["data_parallel"] if block[0] in (fc6, fc7) else mesh
        fully_shard(block, mesh=within, reshard_after_forward=False)
    _complete(network, mesh)


def blocks_of(network: nn.Module) -> list[list[nn.Module]]:
    """The modules with parameters: those between two pools together, each dense layer alone."""
    blocks: list[list[nn.Module]] = [[]]
    for module in network.modules():
        if isinstance(module, nn.MaxPool2d | SkippedPool):
            blocks.append([])
        elif next(module.parameters(recurse=False), None) is not None:
            if isinstance(module, nn.Linear):
                blocks.append([])
            blocks[-1].append(module)
    return [block for block in blocks if block]


def dense_layers(network: nn.Module) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """fc6, fc7 and fc8.

    Raises:
        InputError: the network has others, as with `head=compact`.
    """
    classifier = getattr(network, "classifier", nn.Identity())
    match [module for module in classifier.modules() if isinstance(module, nn.Linear)]:
        case [fc6, fc7, fc8]:
            return fc6, fc7, fc8
    raise InputError(
        "accelerator.strategy=hybrid splits fc6 and fc7, which this network does not have "
        "(model.head=imagenet does); use accelerator=ddp"
    )


def tensor_parallel_size(
    setting: int | Literal["auto"], network: nn.Module, devices: int, world_size: int
) -> int:
    """How many devices share fc6 and fc7.

    Args:
        setting: `accelerator.tensor_parallel`; auto: those of a node, or as many of them as divide
            both their number and the layers' units.
        network: with fc6 and fc7.
        devices: of one node.
        world_size: of all nodes.

    Raises:
        InputError: that many cannot share them.
    """
    units = dense_layers(network)[0].out_features
    if setting == "auto":
        return max(n for n in range(1, devices + 1) if devices % n == 0 == units % n)
    if world_size % setting or units % setting:
        raise InputError(
            f"accelerator.tensor_parallel={setting} must divide the {world_size} devices and the "
            f"{units} units of fc6"
        )
    return setting


def whole(part: Tensor) -> Tensor:
    """The full tensor on the CPU; all devices must ask for it."""
    full = part.full_tensor() if isinstance(part, DTensor) else part
    return full.detach().cpu()


def gathered(tree: Any, *, keep: bool) -> Any:
    """Nested containers with whole tensors for DTensors; without `keep`, None in their place.

    All devices must ask for it, with the same containers.
    """
    return apply_to_collection(tree, DTensor, lambda part: whole(part) if keep else _none(part))


def _none(part: DTensor) -> None:
    part.full_tensor()


def part_of(full: Tensor, like: Tensor) -> Tensor:
    """This device's part of a whole tensor, laid out as `like`; `full` itself if that is whole."""
    if not isinstance(like, DTensor) or isinstance(full, DTensor) or full.shape != like.shape:
        return full
    shape, start = compute_local_shape_and_global_offset(
        full.shape, like.device_mesh, like.placements
    )
    part = full[tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))]
    return DTensor.from_local(
        part.to(like.device, copy=True, memory_format=torch.contiguous_format),
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


def _complete(network: nn.Module, mesh: DeviceMesh) -> None:
    fully_shard(network, mesh=mesh)  # the root, which also takes what no block has
    network.register_load_state_dict_pre_hook(_take_parts)  # type: ignore[no-untyped-call]


def _take_parts(
    network: nn.Module, state: dict[str, Any], prefix: str, *_arguments: object
) -> None:
    """Let a sharded network load what one process saved."""
    for name, parameter in network.named_parameters():
        if (key := prefix + name) in state:
            state[key] = part_of(state[key], parameter)


def _average_over(devices: int, first: nn.Module, last: nn.Module) -> None:
    """Make the gradients of what lies between average over a group's images, as all others do.

    Each device's loss is the mean of its own images', and the group's layers see them all: their
    gradients are the sum over the group.
    """

    def smaller(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient / devices)  # type: ignore[no-untyped-call]

    def as_before(_module: nn.Module, inputs: tuple[Tensor]) -> None:
        if inputs[0].requires_grad:
            inputs[0].register_hook(lambda gradient: gradient * devices)  # type: ignore[no-untyped-call]

    # Each acts on the device's own images: outside of what `parallelize_module` adds.
    first.register_forward_pre_hook(as_before)
    last.register_forward_hook(smaller)
