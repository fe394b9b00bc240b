"""What a device's memory holds under each strategy, from what a device that has all would need."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class Memory:
    """Bytes of a device."""

    parameters: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int
    inputs: int
    peak: int
    available: int

    @property
    def fits(self) -> bool:
        return self.peak <= self.available


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
        # Until it is copied to its bucket; what accumulates adds to it at once. A copy in bfloat16 is
        # made later, and smaller.
        gathered = 0 if accumulate > 1 else largest
        if accelerator.gradient_compression == "powersgd":
            # The errors of all, and of the largest bucket what enters and the new error.
            gathered = cost.gradient_bytes + 2 * largest
        return Held(passing=True, gathered_bytes=gathered)
    # What accumulates is not sent, and stays whole.
    kept, gradients_kept = 1 / devices, 1 / devices if accumulate == 1 else 1.0
    blocks = [(c.bytes, c.group_size) for c in sent]
    if accelerator.strategy == "fsdp":
        return Held(kept, gradients_kept, True, _gathered(blocks, stays=False))
    features = [c for c in issued if c.role == "features"]
    if features and features[0].group_size == devices:  # nobody else has this part of fc6 and fc7
        parted = cost.parameter_bytes - sum(c.covers for c in sent)
        blocks.insert(1, (parted // devices, 1))
    # Features come in the forward pass, and the same again in the backward pass.
    gathered = _gathered(blocks, stays=True) + sum(c.bytes for c in features) // 2
    return Held(kept, gradients_kept, True, gathered)


def _gathered(blocks: Sequence[tuple[int, int]], *, stays: bool) -> int:
    """Bytes that FSDP2 holds beside a device's own parts, where they are the most.

    While a block is in the backward pass, there are its parameters and gradients, those of the
    block before on their way, and the parameters of the next block, or of all that are to come. The
    device's own parts of the gradients are not yet there.

    Args:
        blocks: in the order of the backward pass, whole bytes and devices that share them.
        stays: what was gathered in the forward pass stays until the backward pass.
    """
    sizes = [0, *(size for size, _ in blocks), 0]
    most = sum(sizes) if stays else 0
    for index in range(1, len(sizes) - 1):
        coming = sizes[index:] if stays else sizes[index : index + 2]
        parts = sum(size // sharing for size, sharing in blocks[index - 1 :])
        most = max(most, sum(sizes[index - 1 : index + 1]) + sum(coming) - parts)
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
    passes += sum(kept) - sum(whole) + held.gathered_bytes
    temporary = cost.update_peak_bytes - sum(whole) - cost.input_bytes
    update = sum(kept) + cost.input_bytes + round(held.kept * temporary)
    return Memory(
        parameters=kept[0],
        gradients=kept[1],
        optimizer=kept[2],
        gathered=held.gathered_bytes,
        activations=cost.activation_bytes,
        inputs=cost.input_bytes,
        peak=max(passes, update),
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
