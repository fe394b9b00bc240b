"""A plan in tables for the terminal."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table

from vgglab.planning.plan import Plan
from vgglab.planning.prediction import Prediction

Row = tuple[str, str, str]


def point_table(plan: Plan) -> Table:
    """The one prediction of a plan, a row a number; 80 columns suffice."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    point = plan.points[0]
    for rows in (_memory_rows(plan), _step_rows(point), _sent_rows(plan), _run_rows(point)):
        for label, value, remark in rows:
            table.add_row(label, value, remark)
        table.add_section()
    return table


def _memory_rows(plan: Plan) -> Iterator[Row]:
    memory = plan.points[0].memory
    devices = plan.points[0].situation.devices
    yield "memory of a device", "GiB", ""
    yield "  parameters", _gib(memory.parameters), ""
    yield "  gradients", _gib(memory.gradients), ""
    yield "  optimiser state", _gib(memory.optimizer), ""
    if memory.averages:
        yield "  averaged weights", _gib(memory.averages), ""
    if memory.gathered:
        yield "  of others, and on the way", _gib(memory.gathered), ""
    yield "  activations", _gib(memory.activations), "when the backward pass begins"
    fits = "fits" if memory.fits else "does not fit"
    yield "  peak", _gib(memory.peak), f"of {_gib(memory.available)}: {fits}"
    if plan.largest_batch is not None:
        own = plan.largest_batch // devices
        yield (
            "  largest batch that fits",
            f"{plan.largest_batch:,}",
            f"{devices:,} x {own:,}, not tried",
        )


def _step_rows(point: Prediction) -> Iterator[Row]:
    situation, seconds = point.situation, point.seconds
    own = situation.batch_size // situation.devices
    batch = f"{situation.batch_size:,} = {situation.devices:,} x {own:,}"
    if situation.accumulate > 1:
        batch += f", {situation.accumulate} times"
    yield "step", duration(seconds.total), f"batch {batch}"
    hidden = f"what is not hidden of {duration(seconds.sent)}" if situation.devices > 1 else ""
    for label, part, remark in (
        ("arithmetic", seconds.compute, f"{point.multiply_adds / 1e12:,.3g} T multiply-adds"),
        ("memory traffic", seconds.memory, ""),
        ("network", seconds.network, hidden),
        ("images to the devices", seconds.copy, ""),
        ("waiting for storage", seconds.storage, ""),
    ):
        yield f"  {label}", f"{part / seconds.total:.1%}", remark


def _sent_rows(plan: Plan) -> Iterator[Row]:
    if plan.sent:
        yield "a device sends in a step", "", ""
    for strategy, size in plan.sent.items():
        kinds = " ".join(plan.points[0].wire_bytes) if strategy == plan.strategy else ""
        yield f"  {strategy}", scaled(size, "B"), kinds


def _run_rows(point: Prediction) -> Iterator[Row]:
    reading = point.storage_bytes_per_second
    nodes = point.situation.nodes
    a_node = f"{point.images_per_second / nodes:,.0f} a node" if nodes > 1 else ""
    yield "images/s", f"{point.images_per_second:,.0f}", a_node
    if point.situation.devices > 1:
        yield "efficiency", f"{point.efficiency:.1%}", "against one device"
    if reading:
        enough = "" if not point.seconds.storage else "more than it can give"
        yield "storage must give", scaled(reading, "B/s"), enough
    yield "hours", _hours(point.hours), f"{point.situation.steps:,} steps"
    yield "device-hours", _hours(point.device_hours), ""


def curve_table(points: Sequence[Prediction]) -> Table:
    """A row a number of devices, `!` where the batch does not fit; 80 columns suffice."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for heading in (
        "devices",
        "batch",
        "GiB",
        "step",
        "images/s",
        "effic.",
        "hours",
        "device-h",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("binds", no_wrap=True)
    for point in points:
        size = point.memory.peak / 2**30
        table.add_row(
            f"{point.situation.devices:,}",
            f"{point.situation.batch_size:,}",
            f"{size:.1f}" if point.memory.fits else f"! {size:.1f}",
            duration(point.seconds.total),
            scaled(point.images_per_second),
            f"{point.efficiency:.0%}",
            _hours(point.hours),
            _hours(point.device_hours),
            point.binds.rpartition(" ")[2],
        )
    return table


def scaled(number: float, unit: str = "") -> str:
    """Three digits and a prefix: `5.86 k`."""
    prefixes = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))
    return _in_units(number, [(prefix + unit, size) for prefix, size in prefixes])


def duration(seconds: float) -> str:
    """With a unit that leaves few digits."""
    return _in_units(seconds, [("h", 3600.0), ("s", 1.0), ("ms", 1e-3), ("us", 1e-6)])


def _in_units(number: float, units: Sequence[tuple[str, float]]) -> str:
    """In the first of the units, by size, of which there is one when the number is rounded."""
    rounded = float(f"{number:.3g}")
    unit, size = next((u for u in units if rounded >= u[1]), units[-1])
    return f"{_digits(rounded / size, 3)} {unit}".rstrip()


def _digits(number: float, digits: int) -> str:
    """At least so many, and no power of ten for a large number."""
    return f"{number:,.0f}" if number >= 10 ** (digits - 1) else f"{number:.{digits}g}"


def _gib(size: float) -> str:
    return f"{size / 2**30:,.2f}"


def _hours(number: float) -> str:
    return _digits(number, 2)
