"""The comparison as columns of ready-made cells, for every way of showing it."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from vgglab.comparison.groups import Comparison, Group, Measure, count_seeds
from vgglab.comparison.runs import BEST, BEST_EPOCH
from vgglab.comparison.settings import ABSENT
from vgglab.text import is_accuracy, one_line

_UNITS = (("h", 3600.0), ("min", 60.0), ("s", 1.0))


@dataclass(frozen=True)
class Cell:
    """What stands in one place."""

    text: str
    deviation: str = ""
    """Such as ` ± 0.20`, behind the text."""
    remark: str = ""
    """Such as ` (n=2)`, behind that."""
    is_best: bool = False
    order: float | None = None
    """What it is sorted by. None: by its text."""

    def __str__(self) -> str:
        return f"{self.text}{self.deviation}{self.remark}"


@dataclass(frozen=True)
class Column:
    """A heading over a cell a group."""

    name: str
    """As `sort` takes it."""
    heading: str
    cells: list[Cell]
    is_number: bool


def columns_of(comparison: Comparison) -> list[Column]:
    """What tells the groups apart, how many runs, how they ended, and what came of it."""
    groups = comparison.groups
    columns = [
        _words("#", [str(group.number) for group in groups], is_number=True),
        *(_words(n, [g.choices.get(n, ABSENT) for g in groups]) for n in comparison.choices),
        *(_words(n, [g.settings.get(n, ABSENT) for g in groups]) for n in comparison.settings),
        _words("n", [_count(group) for group in groups], is_number=True),
    ]
    if not all(run.is_finished for run in comparison.runs):
        columns.append(_words("status", [_states(group) for group in groups]))
    columns += [_metric(comparison, name) for name in comparison.metrics]
    columns += [_cost(comparison, name) for name in comparison.costs]
    return columns


def significant(value: float) -> str:
    """An amount with two digits, or with two decimals where it is large."""
    return f"{value:,.2f}" if value >= 10 else f"{value:.2g}"


def _words(name: str, texts: list[str], is_number: bool = False) -> Column:
    return Column(name, one_line(name), [Cell(one_line(text)) for text in texts], is_number)


def _count(group: Group) -> str:
    counted, there = count_seeds(group.counted), count_seeds(group.runs)
    return str(there) if counted == there else f"{counted} of {there}"


def _states(group: Group) -> str:
    states = Counter(run.state for run in group.runs)
    if len(states) == 1:
        return next(iter(states))
    return ", ".join(f"{count} {state}" for state, count in states.most_common())


def _metric(comparison: Comparison, name: str) -> Column:
    if name == BEST_EPOCH:
        return _numbers(comparison, name, "at epoch", _epoch, deviation=False)
    shown = name.replace(BEST, "best val/top1")
    if is_accuracy(name):
        return _numbers(comparison, name, f"{shown} %", lambda value: f"{100 * value:.2f}")
    return _numbers(comparison, name, shown, lambda value: f"{value:.4f}")


def _epoch(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _cost(comparison: Comparison, name: str) -> Column:
    if name == "seconds":
        measures = [m for group in comparison.groups if (m := group.measure(name)) is not None]
        longest = max((measure.mean for measure in measures), default=0.0)
        # In minutes from two of them on, and so with hours.
        unit, size = next((u for u in _UNITS if longest >= 2 * u[1]), _UNITS[-1])
        digits = 1 if longest / size < 100 else 0
        return _numbers(comparison, name, f"time ({unit})", lambda v: f"{v / size:,.{digits}f}")
    heading, form = {
        "images_per_second": ("images/s", "{:,.0f}".format),
        "device_hours": ("device-h", significant),
        "cost": ("cost", significant),
        "parameters": ("parameters", lambda value: f"{value / 1e6:.3g} M"),
    }[name]
    return _numbers(comparison, name, heading, form, deviation=False)


def _numbers(
    comparison: Comparison,
    name: str,
    heading: str,
    form: Callable[[float], str],
    deviation: bool = True,
) -> Column:
    best = comparison.best(name)
    cells = []
    for group in comparison.groups:
        measure = group.measure(name)
        if measure is None:
            cells.append(Cell(ABSENT, order=math.nan))
            continue
        is_best = measure.mean == best
        spread = _spread(measure, form) if deviation else ""
        # A network is as large for every seed.
        missing = name != "parameters" and len(measure.values) < count_seeds(group.counted)
        remark = f" (n={len(measure.values)})" if missing else ""
        cells.append(Cell(form(measure.mean), spread, remark, is_best, measure.mean))
    return Column(name, one_line(heading), cells, is_number=True)


def _spread(measure: Measure, form: Callable[[float], str]) -> str:
    return "" if measure.deviation is None else f" ± {form(measure.deviation)}"
