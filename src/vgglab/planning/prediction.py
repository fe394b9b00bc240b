"""What a training step takes on a machine, by arithmetic alone: memory, time, and what binds.

The time is a roofline, layer by layer: a pass through a layer takes as long as its arithmetic or
its memory traffic, whichever is longer. What is sent goes on beside the layers as soon as its bytes
are there. docs/planning.md has the formulas and what they leave out.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from vgglab.cluster.traffic import Collective
from vgglab.planning.footprint import StepCost
from vgglab.planning.hardware import Hardware

Limit = Literal["compute", "memory bandwidth", "network", "storage", "memory size"]


@dataclass(frozen=True)
class Situation:
    """Where a step runs and what it is a part of."""

    devices: int
    nodes: int
    batch_size: int
    """Of all devices together, one micro-batch."""
    accumulate: int
    """Micro-batches an optimiser step."""
    steps: int
    """Optimiser steps of the whole run."""
    precision: str
    """Lightning's name."""
    kept: float
    """Share of the parameters and of the optimiser's state that a device keeps."""
    gradients_kept: float
    gathered_bytes: int
    """What a device holds beside that: parameters of others, gradients on their way."""
    image_bytes: float
    """Mean, as stored; 0: nothing is read."""
    pixel_bytes: int
    """Of one image on its way to the device."""


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


@dataclass(frozen=True)
class Seconds:
    """An optimiser step, by what it waits for."""

    compute: float
    memory: float
    """In layers, and in the optimiser, that memory traffic holds up."""
    network: float
    """While nothing else goes on."""
    copy: float
    """Of images to the device."""
    storage: float
    """For images, beyond all of the above."""
    sent: float
    """All transfers, also beside the layers; no part of the total."""

    @property
    def total(self) -> float:
        return self.compute + self.memory + self.network + self.copy + self.storage


@dataclass(frozen=True)
class Prediction:
    """A step and a run in one situation."""

    situation: Situation
    memory: Memory
    seconds: Seconds
    multiply_adds: float
    """Of an optimiser step, forward and backward, all devices together."""
    wire_bytes: dict[str, int]
    """By kind of collective, what a device sends in an optimiser step."""
    efficiency: float
    """Images a second, as a share of what as many devices would do that send nothing and each
    work as the one that this is compared with."""

    @property
    def images_per_second(self) -> float:
        return self.situation.batch_size * self.situation.accumulate / self.seconds.total

    @property
    def hours(self) -> float:
        return self.situation.steps * self.seconds.total / 3600

    @property
    def device_hours(self) -> float:
        return self.situation.devices * self.hours

    @property
    def storage_bytes_per_second(self) -> float:
        """That all nodes together read."""
        return self.images_per_second * self.situation.image_bytes

    @property
    def shares(self) -> dict[Limit, float]:
        """Parts of the step; that of copying the images is left out."""
        seconds = self.seconds
        parts: dict[Limit, float] = {
            "compute": seconds.compute,
            "memory bandwidth": seconds.memory,
            "network": seconds.network,
            "storage": seconds.storage,
        }
        return {limit: part / seconds.total for limit, part in parts.items()}

    @property
    def binds(self) -> Limit:
        """What the greatest part of the step waits for; `memory size` where it does not fit."""
        if not self.memory.fits:
            return "memory size"
        shares = self.shares
        return max(shares, key=shares.__getitem__)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON: what was given and all that follows from it."""
        return {
            **asdict(self),
            "fits": self.memory.fits,
            "step_seconds": self.seconds.total,
            "images_per_second": self.images_per_second,
            "hours": self.hours,
            "device_hours": self.device_hours,
            "storage_bytes_per_second": self.storage_bytes_per_second,
            "binds": self.binds,
        }


def predict(
    cost: StepCost,
    collectives: Sequence[Collective],
    hardware: Hardware,
    situation: Situation,
    alone: Prediction | None = None,
) -> Prediction:
    """What a step and a run take.

    Args:
        cost: of one device's micro-batch, as if it kept everything.
        collectives: that one micro-batch issues, in order.
        hardware: where.
        situation: see there.
        alone: one device, to compare with. None: this is the one.

    Raises:
        InputError: the hardware has no arithmetic of this precision.
    """
    flops = cost.forward_flops + cost.backward_flops
    wire: Counter[str] = Counter()
    for collective in collectives:
        times = 1 if _is_of_gradients(collective) else situation.accumulate
        wire[collective.kind] += round(times * collective.wire_bytes)
    found = Prediction(
        situation=situation,
        memory=memory_of(cost, hardware, situation),
        seconds=_seconds(cost, collectives, hardware, situation),
        multiply_adds=flops / 2 * situation.devices * situation.accumulate,
        wire_bytes=dict(wire),
        efficiency=1.0,
    )
    if alone is None:
        return found
    ideal = situation.devices * alone.images_per_second
    return replace(found, efficiency=found.images_per_second / ideal)


@dataclass(frozen=True)
class Work:
    """A pass through a layer."""

    seconds: float
    parameter_bytes: int
    """That it uses, or whose gradients it makes."""


@dataclass(frozen=True)
class Transfer:
    """One collective of parameters or gradients."""

    seconds: float
    bytes: int


def finish(
    layers: Sequence[Work], gathers: Sequence[Transfer] = (), sends: Sequence[Transfer] = ()
) -> float:
    """When a pass is computed and all is sent, seconds after its beginning.

    Transfers go one after another beside the layers. A gather begins with the first layer that uses
    what the one before it brought (FSDP2's prefetching), and the layers that use it wait for it. A
    gradient is sent once the layers have made it. Which layers these are follows from the bytes;
    all three are in the order of the pass. Where the transfers are of fewer bytes than the layers,
    as with compressed gradients, each stands for its share.
    """
    total = sum(layer.parameter_bytes for layer in layers)
    to_gather = sum(transfer.bytes for transfer in gathers)
    to_send = sum(transfer.bytes for transfer in sends)
    coming, waiting = list(gathers)[::-1], list(sends)[::-1]
    now = 0.0
    used = gathered = sent = 0
    arrival = free = coming[-1].seconds if coming else 0.0
    for layer in layers:
        used += layer.parameter_bytes
        while coming and gathered * total < used * to_gather:
            now = max(now, arrival)
            gathered += coming.pop().bytes
            if coming:
                arrival = free = max(free, now) + coming[-1].seconds
        now += layer.seconds
        while waiting and (sent + waiting[-1].bytes) * total <= used * to_send:
            free = max(free, now) + waiting[-1].seconds
            sent += waiting.pop().bytes
    return max(now, free) + sum(transfer.seconds for transfer in waiting)


def memory_of(cost: StepCost, hardware: Hardware, situation: Situation) -> Memory:
    """What a device needs; `cost` as in `predict`."""
    whole = cost.parameter_bytes, cost.gradient_bytes, cost.optimizer_bytes
    shares = situation.kept, situation.gradients_kept, situation.kept
    kept = [round(share * size) for share, size in zip(shares, whole, strict=True)]
    return Memory(
        parameters=kept[0],
        gradients=kept[1],
        optimizer=kept[2],
        gathered=situation.gathered_bytes,
        activations=cost.activation_bytes,
        inputs=cost.input_bytes,
        peak=cost.peak_bytes - sum(whole) + sum(kept) + situation.gathered_bytes,
        available=hardware.usable_bytes,
    )


def _seconds(
    cost: StepCost, collectives: Sequence[Collective], hardware: Hardware, situation: Situation
) -> Seconds:
    """Of all micro-batches of a step, the last of which averages the gradients."""
    rate, bandwidth = hardware.matrix_rate(situation.precision), hardware.memory_rate
    forward: list[Work] = []
    backward: list[Work] = []
    compute = memory = 0.0
    for layer in cost.layers:
        for works, flops, moved in (
            (forward, layer.forward_flops, layer.forward_bytes),
            (backward, layer.backward_flops, layer.backward_bytes),
        ):
            computing, moving = flops / rate, moved / bandwidth
            works.append(Work(max(computing, moving), layer.parameter_bytes))
            compute += computing if computing >= moving else 0.0
            memory += moving if computing < moving else 0.0
    backward.reverse()
    gathers, again, sends, others = _transfers(collectives, hardware, situation)
    entering = finish(forward, gathers)
    alone, averaging = finish(backward, again), finish(backward, again, sends)
    blocking = sum(transfer.seconds for transfer in others)
    times = situation.accumulate
    in_all = times * (entering + blocking) + (times - 1) * alone + averaging
    update = situation.kept * cost.update_bytes / bandwidth
    images = times * situation.batch_size
    copy = images / situation.devices * situation.pixel_bytes / (hardware.host_gb_s.value * 1e9)
    reading = images * situation.image_bytes / (situation.nodes * hardware.storage_gb_s.value * 1e9)
    every_time = (*gathers, *again, *others)
    return Seconds(
        compute=times * compute,
        memory=times * memory + update,
        network=max(0.0, in_all - times * (compute + memory)),  # not less by a rounding error
        copy=copy,
        storage=max(0.0, reading - in_all - update - copy),
        sent=sum(t.seconds for t in sends) + times * sum(t.seconds for t in every_time),
    )


def _is_of_gradients(collective: Collective) -> bool:
    """Sent once a step; all others go with each micro-batch."""
    return collective.overlaps and collective.kind in ("all_reduce", "reduce_scatter")


def _transfers(
    collectives: Sequence[Collective], hardware: Hardware, situation: Situation
) -> tuple[list[Transfer], list[Transfer], list[Transfer], list[Transfer]]:
    """Gathers of parameters in the forward and in the backward pass, averages of gradients, and all
    others, for which the layers wait."""
    gathers: list[Transfer] = []
    again: list[Transfer] = []
    sends: list[Transfer] = []
    others: list[Transfer] = []
    # What is gathered is scattered again as its gradient.
    blocks = {(c.bytes, c.group_size) for c in collectives if _is_of_gradients(c)}
    for collective in collectives:
        is_of_block = (collective.bytes, collective.group_size) in blocks
        seconds = _transfer_seconds(collective, hardware, situation, is_of_block)
        same = [Transfer(seconds, collective.bytes)] * collective.count
        if _is_of_gradients(collective):
            sends += same
        elif collective.kind == "all_gather" and is_of_block:
            (again if collective.overlaps else gathers).extend(same)
        else:
            others += same
    if again:  # the rest is still there
        missing = sum(t.bytes for t in gathers) - sum(t.bytes for t in again)
        again.insert(0, Transfer(0.0, missing))
    return gathers, again, sends, others


def _transfer_seconds(
    collective: Collective, hardware: Hardware, situation: Situation, is_of_block: bool
) -> float:
    """How long one of a collective's `count` takes by itself."""
    size, nodes = collective.group_size, situation.nodes
    if size < situation.devices and not is_of_block:
        # Tensor parallelism is among neighbours; its parts are shared among all nodes.
        nodes = max(1, nodes * size // situation.devices)
    wire_bytes = collective.wire_bytes / collective.count
    return hardware.collective_seconds(collective.kind, wire_bytes, size, min(nodes, size))
