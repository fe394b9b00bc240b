"""A plan for people: tables for the terminal, the scaling chart; and its numbers for programs."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from vgglab.config.schema import PlanConfig
from vgglab.files import replacing
from vgglab.planning.plan import Plan
from vgglab.planning.prediction import Prediction
from vgglab.reporting.environment import open_run_folder, write_json
from vgglab.reporting.terminal import console

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_COLOURS = {
    "compute": "#0072B2",
    "memory bandwidth": "#E69F00",
    "network": "#D55E00",
    "storage": "#009E73",
    "memory size": "#000000",
}
_LINE, _GRID = "#444444", "#dddddd"


def show_plan(plan: Plan, job: PlanConfig) -> None:
    """Print a plan; a curve also goes into the run's folder, as `scaling.png` and `plan.json`.

    Raises:
        InputError: the folder cannot be written.
    """
    record = {
        "title": plan.title,
        "largest_batch": plan.largest_batch,
        "notes": plan.notes,
        "points": [point.to_dict() for point in plan.points],
    }
    is_curve = len(plan.points) > 1
    if is_curve:
        folder = Path(job.run_dir)
        open_run_folder(folder, job.composition)
        write_json(folder / "plan.json", record)
        with replacing(folder / "scaling.png") as temporary:
            scaling_figure(plan.points, plan.title).savefig(temporary, format="png")
    if job.format == "json":
        print(json.dumps(record, indent=2))
        return
    console.print(plan.title, soft_wrap=True)
    console.print(curve_table(plan.points) if is_curve else point_table(plan))
    for note in plan.notes:
        console.print(note, soft_wrap=True)
    if is_curve:
        console.print(f"chart  {Path(job.run_dir) / 'scaling.png'}", soft_wrap=True)


def point_table(plan: Plan) -> Table:
    """The one prediction of a plan, a row a number; 80 columns suffice."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for rows in (_memory_rows(plan), _step_rows(plan.points[0]), _run_rows(plan.points[0])):
        for label, value, remark in rows:
            table.add_row(label, value, remark)
        table.add_section()
    return table


Row = tuple[str, str, str]


def _memory_rows(plan: Plan) -> Iterator[Row]:
    memory = plan.points[0].memory
    devices = plan.points[0].situation.devices
    yield "memory of a device", "GiB", ""
    yield "  parameters", _gib(memory.parameters), ""
    yield "  gradients", _gib(memory.gradients), ""
    yield "  optimiser state", _gib(memory.optimizer), ""
    if memory.gathered:
        yield "  of others, and on the way", _gib(memory.gathered), ""
    yield "  activations", _gib(memory.activations), "when the backward pass begins"
    fits = "fits" if memory.fits else "does not fit"
    yield "  peak", _gib(memory.peak), f"of {_gib(memory.available)}: {fits}"
    if plan.largest_batch is not None:
        own = plan.largest_batch // devices
        yield "  largest batch that fits", f"{plan.largest_batch:,}", f"{devices} x {own:,}"


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
    for kind, size in point.wire_bytes.items():
        yield f"  {kind}", f"{scaled(size)}B", "that a device sends"


def _run_rows(point: Prediction) -> Iterator[Row]:
    reading = point.storage_bytes_per_second
    yield "images/s", f"{point.images_per_second:,.0f}", ""
    if point.situation.devices > 1:
        yield "efficiency", f"{point.efficiency:.1%}", "against one device"
    if reading:
        yield "read from storage", f"{scaled(reading)}B/s", ""
    yield "hours", _hours(point.hours), f"{point.situation.steps:,} steps"
    yield "device-hours", _hours(point.device_hours), ""


def _gib(size: float) -> str:
    return f"{size / 2**30:,.2f}"


def scaling_figure(points: Sequence[Prediction], title: str) -> "Figure":
    """Images a second and efficiency against the number of devices, each point in the colour of
    what binds there.

    Args:
        points: at least one, by number of devices.
        title: what is planned.

    Returns:
        A matplotlib figure that belongs to no window and no global state.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 6.4), dpi=150, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    devices = [point.situation.devices for point in points]
    first = points[0]
    alone = first.images_per_second / first.efficiency / first.situation.devices
    above.plot(devices, [alone * n for n in devices], color=_LINE, linestyle=":", label="ideal")
    above.plot(devices, [p.images_per_second for p in points], color=_LINE, linewidth=1.2)
    below.axhline(100, color=_LINE, linestyle=":")
    below.plot(devices, [100 * p.efficiency for p in points], color=_LINE, linewidth=1.2)
    for limit, colour in _COLOURS.items():
        bound = [point for point in points if point.binds == limit]
        at = [point.situation.devices for point in bound]
        style = {"color": colour, "linestyle": "none", "marker": "o", "zorder": 3}
        if bound:
            speeds = [point.images_per_second for point in bound]
            above.plot(at, speeds, label=f"{limit} binds", **style)
            below.plot(at, [100 * p.efficiency for p in bound], **style)
    above.set_yscale("log")
    above.yaxis.set_major_formatter(lambda number, _: scaled(number))
    above.set_ylabel("images a second")
    above.set_title(title, loc="left", fontsize="medium", parse_math=False)
    above.legend(frameon=False, loc="upper left")
    below.set_ylim(0, 108 * max(1.0, *(point.efficiency for point in points)))
    below.set_ylabel("efficiency, %")
    below.set_xlabel("devices")
    _count_by_powers_of_two(below, devices)
    for axes in (above, below):
        axes.grid(color=_GRID, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _count_by_powers_of_two(axes: "Axes", devices: Sequence[int]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(devices))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")


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
            point.binds.partition(" ")[0],
        )
    return table


def scaled(number: float) -> str:
    """Three digits and a prefix: `5.86 k`."""
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number:.3g}"


def _hours(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def duration(seconds: float) -> str:
    """With a unit that leaves few digits."""
    for unit, size in (("h", 3600), ("s", 1), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"
