"""scripts/plan.py: what a training run will take, from its configuration and no data."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

from vgglab.config.launch_jobs import PlanConfig
from vgglab.data.sampling import per_device_batch_size
from vgglab.planning.hardware import Hardware
from vgglab.planning.planner import Planner
from vgglab.planning.prediction import Prediction
from vgglab.progress import progress

_MOST = 4096  # devices up to which is looked for where the network binds
_SHORT = 2e-3  # seconds
_BOUND = "a bound: measured runs took 1.2 to 2 times as long (docs/planning.md)"


@dataclass(frozen=True)
class Plan:
    """All predictions that were asked for."""

    title: str
    points: list[Prediction]
    """By number of devices."""
    largest_batch: int | None
    """Global, that fits; of a single number of devices."""
    strategy: str
    sent: dict[str, int]
    """By strategy, bytes that a device sends in an optimiser step; of a single number of devices,
    and without what does not suit the network."""
    notes: list[str]


def make_plan(job: PlanConfig) -> Plan:
    """Predict the run of `job`, on one number of devices or along a curve.

    Raises:
        InputError: the configuration names what is not known, or does not fit together.
    """
    with progress("plan", None, unit="batch sizes") as advance:
        return _made(Planner(job, advance))


def _made(planner: Planner) -> Plan:
    points, left_out = _points(planner)
    notes = [*left_out, *_notes(planner, points)]
    largest, sent = None, {}
    if len(points) == len(planner.places) == 1:
        where, batch_size = planner.places[0], points[0].situation.batch_size
        auto = planner.job.batch_size == "auto"
        largest = batch_size if auto else planner.largest_batch(*where)
        sent = planner.sent(*where, batch_size // where[0])
    return Plan(_title(planner, points), points, largest, planner.strategy, sent, notes)


def _points(planner: Planner) -> tuple[list[Prediction], list[str]]:
    """A prediction a place, and a line that names those left out, if any."""
    first = planner.places[0][0]
    chosen = _largest_of_all(planner) if planner.job.batch_size == "auto" else planner.batch_size
    own = per_device_batch_size(chosen, first)
    points: list[Prediction] = []
    left_out = []
    for devices, nodes in planner.places:
        batch_size = own * devices if planner.scaling == "weak" else chosen
        if points and (batch_size % devices or batch_size > planner.images.count):
            left_out.append(f"{devices:,}")
        else:
            points.append(planner.predict(devices, nodes, batch_size))
    if not left_out:
        return points, []
    why = "the training set is smaller than their batch"
    if planner.scaling == "strong":
        why = f"they cannot divide the global batch of {chosen:,} (scaling=weak lets it grow)"
    return points, [f"left out: {' '.join(left_out)} devices; {why}"]


def _largest_of_all(planner: Planner) -> int:
    """On the first place, a global batch that suits them all."""
    first, nodes = planner.places[0]
    if planner.scaling == "strong":
        every = math.lcm(*(devices for devices, _ in planner.places))
        return planner.largest_batch(first, nodes, multiple_of=every // first)
    most = planner.images.count // planner.places[-1][0]
    for devices, nodes in planner.places:
        most = planner.largest_batch(devices, nodes, most=most) // devices
    return first * most


def _title(planner: Planner, points: Sequence[Prediction]) -> str:
    job, last = planner.job, points[-1].situation
    name, batch = planner.hardware.name, f"batch {points[0].situation.batch_size:,}"
    if len(points) > 1:
        where = f"{points[0].situation.devices:,} to {last.devices:,} x {name}"
        if planner.scaling == "weak":
            own = points[0].situation.batch_size // points[0].situation.devices
            batch = f"batch {own:,} a device"
    else:
        where = f"{last.devices:,} x {name}"
        if last.nodes > 1:
            where += f" in {last.nodes:,} nodes"
    strategy = f", {planner.strategy}" if last.devices > 1 else ""
    return f"{job.name} on {where}{strategy}, {job.trainer.precision}, {batch}"


def _notes(planner: Planner, points: Sequence[Prediction]) -> Iterator[str]:
    """What the numbers do not say by themselves."""
    if len(points) == 1:
        yield _binding(planner, points[0])
    elif planner.scaling == "weak":
        batch_size = points[-1].situation.batch_size
        yield f"the global batch grows to {batch_size:,}; scaling=strong keeps it as it is"
    if len(points) > 1 and not all(point.memory.fits for point in points):
        yield "! is more than a device has; batch_size=auto finds the largest that fits"
    if planner.images.mean_bytes is None:
        yield "storage is left out: give image_bytes=N, the mean size of an image"
    if min(point.seconds.total for point in points) < _SHORT:
        yield "so short a step is bound by Python and its launches, which no plan knows"
    if assumed := planner.hardware.assumptions():
        yield f"assumed: {' '.join(_override(planner.hardware, name) for name in assumed)}"
    yield _BOUND


def _override(hardware: Hardware, name: str) -> str:
    """A figure as it can be given on the command line."""
    figure = attrgetter(name.removeprefix("hardware."))(hardware)
    return f"{name}.value={figure.value:g}"


def _binding(planner: Planner, point: Prediction) -> str:
    if not point.memory.fits:
        return "memory size binds: the batch does not fit (batch_size=auto does)"
    line = f"{point.binds} binds: {point.shares[point.binds]:.0%} of the step"
    later = None if point.binds == "network" else _first_bound_by_network(planner, point)
    return line if later is None else f"{line}; the network would bind from {later:,} devices"


def _first_bound_by_network(planner: Planner, point: Prediction) -> int | None:
    """Of the doubles of the point's number of devices, at the same global batch or the same
    batch a device."""
    devices, nodes = point.situation.devices, point.situation.nodes
    batch_size = point.situation.batch_size
    while point.binds != "network":
        devices *= 2
        if devices > planner.hardware.devices_per_node * nodes:
            nodes *= 2
        batch_size *= 2 if planner.scaling == "weak" else 1
        if devices > _MOST or batch_size % devices or batch_size > planner.images.count:
            return None
        point = planner.predict(devices, nodes, batch_size)
    return devices
