"""What a device's memory holds under each strategy, from what a device that has all would need."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from vgglab.cluster.traffic import Collective
from vgglab.config.schema import AcceleratorConfig
from vgglab.planning.footprint import StepCost


@dataclass(frozen=True)
class Held:
    """Which part of everything a device holds, and what else."""

    kept: float = 1.0
    """Share of the parameters and of the optimiser's state."""
    gradients_kept: float = 1.0
    passing: bool = False
    """A gradient goes to a place of its own once it is made: a bucket, or a device's part."""
    gathered_bytes: int = 0
    """Beside that: parameters of others, gradients on their way."""
    averages: int = 0
    """Copies of the parameters with their moving averages; of each a device keeps its share."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a device."""

    parameters: int
    gradients: int
    optimizer: int
    gathered: int
    averages: int
    activations: int
    inputs: int
    peak: int
    available: int

    @property
    def fits(self) -> bool:
        return self.peak <= self.available


class Block(NamedTuple):
    """Parameters that are gathered together."""

    bytes: int
    devices: int
    """That share them."""


def held_by(
    accelerator: AcceleratorConfig,
    devices: int,
    accumulate: int,
    cost: StepCost,
    issued: Sequence[Collective],
) -> Held:
    """Which part of everything a device of `devices` holds.

    Args:
        accelerator: the strategy, not `auto`.
        devices: in all.
        accumulate: micro-batches an optimiser step.
        cost: of a device that has everything.
        issued: what a micro-batch sends.
    """
    if not issued:
        return Held()
    sent = [c for c in issued if c.role == "gradients"]
    if accelerator.strategy == "ddp":
        largest = max(layer.parameter_bytes for layer in cost.layers)
        # A gradient, until it is copied to its bucket; one in bfloat16 comes later and is smaller.
        gathered = largest
        if accelerator.gradient_compression == "powersgd":
            # The errors of all, and of the largest bucket what enters and the new error.
            gathered = cost.gradient_bytes + 2 * largest
        return Held(passing=True, gathered_bytes=gathered)
    blocks = [Block(c.bytes, c.group_size) for c in sent]
    gathered = 0
    if accelerator.strategy == "hybrid":
        features = [c for c in issued if c.role == "features"]
        if features and features[0].group_size == devices:  # nobody else has this part of fc6, fc7
            parted = cost.parameter_bytes - sum(c.covers for c in sent)
            blocks.insert(1, Block(parted // devices, 1))
        # They come in the forward pass, and the same again in the backward pass.
        gathered = sum(c.bytes for c in features) // 2
    gathered += _gathered(blocks, accumulate, stays=accelerator.strategy == "hybrid")
    kept = gradients_kept = 1 / devices
    if accumulate > 1:  # at home
        gradients_kept = sum(block.bytes for block in blocks) / cost.gradient_bytes
    return Held(kept, gradients_kept, True, gathered)


def _gathered(blocks: Sequence[Block], accumulate: int, *, stays: bool) -> int:
    """Bytes that FSDP2 holds beside a device's own parts, where they are the most.

    In the forward pass, what was gathered is copied. While a block is in the backward pass, there
    are its parameters and gradients, those of the block before on their way, and the parameters of
    the next block, or of all that are to come. The device's own parts of these gradients are not
    there, unless they accumulate.

    Args:
        blocks: in the order of the backward pass.
        accumulate: as in `held_by`.
        stays: what was gathered in the forward pass stays until the backward pass.
    """
    most = 0
    sizes = [block.bytes for block in blocks]
    for index, block in enumerate(blocks):
        there = sum(sizes[index:]) if stays else block.bytes
        forward = there + (block.bytes if block.devices > 1 else 0)
        backward = there + block.bytes + (sizes[index - 1] if index else 0)
        if not stays:
            backward += sum(sizes[index + 1 : index + 2])
        if accumulate == 1:
            backward -= sum(later.bytes // later.devices for later in blocks[index:])
        most = max(most, forward, backward)
    return most


def memory_of(cost: StepCost, available: int, held: Held) -> Memory:
    """What a device needs.

    Args:
        cost: of a micro-batch on a device that has everything.
        available: bytes for tensors.
        held: see there.
    """
    whole = cost.parameter_bytes, cost.gradient_bytes, cost.optimizer_bytes
    shares = held.kept, held.gradients_kept, held.kept
    kept = [round(share * size) for share, size in zip(shares, whole, strict=True)]
    passes = cost.passes_peak_bytes
    if held.passing:
        passes = cost.gradientless_peak_bytes + cost.gradient_bytes
    averages = held.averages * kept[0]
    passes += sum(kept) - sum(whole) + held.gathered_bytes
    temporary = cost.update_peak_bytes - sum(whole) - cost.input_bytes
    update = sum(kept) + cost.input_bytes + round(held.kept * temporary)
    return Memory(
        parameters=kept[0],
        gradients=kept[1],
        optimizer=kept[2],
        gathered=held.gathered_bytes,
        averages=averages,
        activations=cost.activation_bytes,
        inputs=cost.input_bytes,
        peak=max(passes, update) + averages,
        available=available,
    )


def share_dense(cost: StepCost, single: StepCost, parallel: int, *, alone: bool) -> StepCost:
    """The cost of a device that has 1/`parallel` of fc6 and fc7, for the images of as many devices:
    the same arithmetic, and that part of the memory traffic that the weights have.

    Args:
        cost: of a device's own images.
        single: of one image, whose traffic in these layers is that of the weights.
        parallel: devices that share.
        alone: nobody else has this part, so that it is neither gathered nor averaged.
    """
    fc6, fc7, _ = [i for i, layer in enumerate(cost.layers) if layer.parameter_bytes][-3:]
    layers = list(cost.layers)
    for index in (fc6, fc7):
        layer, weights = cost.layers[index], single.layers[index]
        saved = 1 - 1 / parallel
        layers[index] = replace(
            layer,
            forward_bytes=round(layer.forward_bytes - saved * weights.forward_bytes),
            backward_bytes=round(layer.backward_bytes - saved * weights.backward_bytes),
            parameter_bytes=0 if alone else layer.parameter_bytes // parallel,
        )
    return replace(cost, layers=layers)
