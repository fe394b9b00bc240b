"""A plan for people: on the terminal and as the scaling chart; and its numbers for programs."""

import json
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from vgglab.config.launch_jobs import PlanConfig
from vgglab.files import replacing
from vgglab.planning.plan import Plan
from vgglab.planning.prediction import Prediction
from vgglab.planning.tables import curve_table, point_table, scaled
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
        "sent_bytes_by_strategy": plan.sent,
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
    above.set_title(fill(title, 90), loc="left", fontsize="medium", parse_math=False)
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
