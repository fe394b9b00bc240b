"""How long a training step takes: a roofline, layer by layer, with what is sent beside the layers.

A pass through a layer takes as long as its arithmetic or its memory traffic, whichever is longer.
docs/planning.md has the formulas and what they leave out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vgglab.cluster.traffic import Collective, Role
from vgglab.planning.footprint import StepCost
from vgglab.planning.hardware import Hardware
from vgglab.planning.placing import Situation


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
    def working(self) -> float:
        """All but the waiting for storage."""
        return self.compute + self.memory + self.network + self.copy

    @property
    def total(self) -> float:
        return self.working + self.storage


@dataclass(frozen=True)
class Pass:
    """One way through a layer."""

    seconds: float
    parameter_bytes: int
    """That it uses, or whose gradients it makes."""


@dataclass(frozen=True)
class Transfer:
    """One collective."""

    seconds: float
    covers: int
    """Bytes of the parameters that it brings, or whose gradients it completes."""


def step_seconds(
    cost: StepCost, collectives: Sequence[Collective], hardware: Hardware, situation: Situation
) -> Seconds:
    """All micro-batches of an optimiser step, the last of which averages the gradients; arguments
    as in `vgglab.planning.prediction.predict`."""
    rate, bandwidth = hardware.matrix_rate(situation.precision), hardware.memory_rate
    forward: list[Pass] = []
    backward: list[Pass] = []
    compute = memory = 0.0
    for layer in cost.layers:
        for passes, flops, moved in (
            (forward, layer.forward_flops, layer.forward_bytes),
            (backward, layer.backward_flops, layer.backward_bytes),
        ):
            computing, moving = flops / rate, moved / bandwidth
            passes.append(Pass(max(computing, moving), layer.parameter_bytes))
            compute += computing if computing >= moving else 0.0
            memory += moving if computing < moving else 0.0
    backward.reverse()
    transfers = _transfers(collectives, hardware, situation)
    gathers, again, sends = (transfers[r] for r in ("parameters", "parameters again", "gradients"))
    blocking = sum(t.seconds for role in ("features", "other") for t in transfers[role])
    entering = finish(forward, gathers)
    alone, averaging = finish(backward, again), finish(backward, again, sends)
    times = situation.accumulate
    in_all = times * (entering + blocking) + (times - 1) * alone + averaging
    update = situation.held.kept * cost.update_bytes / bandwidth
    images = times * situation.batch_size
    copy = images / situation.devices * situation.pixel_bytes / (hardware.host_gb_s.value * 1e9)
    reading = images * situation.image_bytes / (situation.nodes * hardware.storage_gb_s.value * 1e9)
    every_time = sum(t.seconds for t in (*gathers, *again)) + blocking
    return Seconds(
        compute=times * compute,
        memory=times * memory + update,
        network=max(0.0, in_all - times * (compute + memory)),  # not less by a rounding error
        copy=copy,
        storage=max(0.0, reading - in_all - update - copy),
        sent=sum(t.seconds for t in sends) + times * every_time,
    )


def finish(
    layers: Sequence[Pass], gathers: Sequence[Transfer] = (), sends: Sequence[Transfer] = ()
) -> float:
    """When a pass through all layers is computed and all is sent, seconds after its beginning.

    Transfers go one after another beside the layers. A gather begins with the first layer that uses
    what the one before it brought (FSDP2's prefetching), and the layers that use it wait for it. A
    gradient is sent once the layers have made it. Which layers these are follows from the bytes;
    all three are in the order of the pass.
    """
    coming, waiting = list(gathers)[::-1], list(sends)[::-1]
    now = 0.0
    used = gathered = sent = 0
    arrival = free = coming[-1].seconds if coming else 0.0
    for layer in layers:
        used += layer.parameter_bytes
        while coming and gathered < used:
            now = max(now, arrival)
            gathered += coming.pop().covers
            if coming:
                arrival = free = max(free, now) + coming[-1].seconds
        now += layer.seconds
        while waiting and sent + waiting[-1].covers <= used:
            free = max(free, now) + waiting[-1].seconds
            sent += waiting.pop().covers
    return max(now, free) + sum(transfer.seconds for transfer in waiting)


def _transfers(
    collectives: Sequence[Collective], hardware: Hardware, situation: Situation
) -> dict[Role, list[Transfer]]:
    found: dict[Role, list[Transfer]] = {
        "parameters": [],
        "parameters again": [],
        "gradients": [],
        "features": [],
        "other": [],
    }
    for collective in collectives:
        seconds = _seconds(collective, hardware, situation)
        found[collective.role].append(Transfer(seconds, collective.covers))
    if again := found["parameters again"]:  # the rest is still there
        missing = sum(t.covers for t in found["parameters"]) - sum(t.covers for t in again)
        again.insert(0, Transfer(0.0, missing))
    return found


def _seconds(collective: Collective, hardware: Hardware, situation: Situation) -> float:
    """How long a collective takes by itself, while other groups do the same."""
    size, nodes = collective.group_size, situation.nodes
    if collective.role == "features":  # of neighbours
        nodes = max(1, nodes * size // situation.devices)
    busy = situation.devices // situation.nodes
    wire_bytes = collective.wire_bytes
    return hardware.collective_seconds(collective.kind, wire_bytes, size, min(nodes, size), busy)
