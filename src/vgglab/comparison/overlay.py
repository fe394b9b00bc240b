"""The curves of all runs, one over the other."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean

from vgglab.comparison.groups import Comparison
from vgglab.reporting.charts import Series, line_chart
from vgglab.reporting.history import Curve
from vgglab.reporting.page import note
from vgglab.text import percent, shortened

_NAMED = 12  # groups with a name in the key; with more a key is no help
_POINTS = 18_000  # of all lines of a chart: with 50 runs the page has less than two megabytes
_FEWEST, _MOST = 60, 600  # points a line keeps
_LABEL = 60  # characters

_CHARTS: Sequence[tuple[str, str, Callable[[float], str], bool]] = (
    ("train/loss", "Training loss", "{:.4g}".format, False),
    ("val/loss", "Validation loss", "{:.4g}".format, False),
    ("val/top1", "Validation top-1", partial(percent, form=".4g"), False),
    ("lr", "Learning rate", "{:.3g}".format, True),
)


def overlaid_curves(comparison: Comparison) -> str:
    """A chart a metric, as HTML; the empty string where no run has a history."""
    charts = [
        line_chart(title, _series(comparison, name), label, from_zero)
        for name, title, label, from_zero in _CHARTS
    ]
    if not any(charts):
        return ""
    hints = ["Of a long curve a point is the mean of several."]
    if any(len(group.runs) > 1 for group in comparison.groups):
        hints.append("Thin lines are runs, thick ones the mean of a row.")
    if len(comparison.groups) > _NAMED:
        hints.append(f"The first {_NAMED} rows have a name, all others are thin.")
    return f'{note(" ".join(hints))}<div class="grid2">{"".join(charts)}</div>'


def _series(comparison: Comparison, name: str) -> list[Series]:
    """Of each group the mean; of each run of several a thin line in the same colour."""
    lines: list[Series] = []
    for group in comparison.groups:
        colour = group.number - 1
        runs = group.runs if len(group.runs) > 1 else ()
        lines += [Series(r.name, r.curves.get(name, []), colour, faint=True) for r in runs]
        label = comparison.label(group)
        shown = shortened(label, _LABEL)
        lines.append(Series(shown, group.curve(name), colour, faint=group.number > _NAMED))
    most = min(max(_FEWEST, _POINTS // len(lines)), _MOST)
    return [replace(line, points=_shortened(line.points, most)) for line in lines]


def _shortened(points: Curve, most: int) -> Curve:
    """At most so many: each the mean of neighbours, because many noisy lines hide each other."""
    size = math.ceil(len(points) / most)
    if size < 2:
        return points
    return [_mean(points[start : start + size]) for start in range(0, len(points), size)]


def _mean(block: Curve) -> tuple[float, float]:
    steps, values = zip(*block, strict=True)
    return fmean(steps), fmean(values)
