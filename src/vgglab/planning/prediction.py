"""What a training step takes on a machine, by arithmetic alone, and what follows for the run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from vgglab.cluster.traffic import Collective
from vgglab.planning.footprint import StepCost
from vgglab.planning.hardware import Hardware
from vgglab.planning.memory import Memory, memory_of
from vgglab.planning.placing import Situation
from vgglab.planning.timing import Seconds, step_seconds

Limit = Literal["compute", "memory bandwidth", "network", "storage", "memory size"]


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
        """That storage must give all nodes together, so that nothing waits for it."""
        situation = self.situation
        images = situation.batch_size * situation.accumulate
        return images * situation.image_bytes / self.seconds.working

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
    found = Prediction(
        situation=situation,
        memory=memory_of(cost, hardware.usable_bytes, situation.held),
        seconds=step_seconds(cost, collectives, hardware, situation),
        multiply_adds=flops / 2 * situation.devices * situation.accumulate,
        wire_bytes=sent_bytes(collectives, situation.accumulate),
        efficiency=1.0,
    )
    if alone is None:
        return found
    ideal = situation.devices * alone.images_per_second
    return replace(found, efficiency=found.images_per_second / ideal)


def sent_bytes(collectives: Sequence[Collective], accumulate: int) -> dict[str, int]:
    """By kind, what a device sends in an optimiser step of so many micro-batches.

    Args:
        collectives: of one micro-batch whose gradients are averaged.
        accumulate: micro-batches; the gradients are averaged once.
    """
    sent: Counter[str] = Counter()
    for collective in collectives:
        times = 1 if collective.role == "gradients" else accumulate
        sent[collective.kind] += round(times * collective.wire_bytes)
    return dict(sent)
