"""Line charts as inline SVG: their colours are the page's, so they follow light and dark."""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape
from itertools import accumulate, pairwise

COLOURS = 8  # of the page: --c0 to --c7

_WIDTH, _HEIGHT = 520, 256
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 12, 40  # around the plot; in the SVG's own units
_POINTS = 1000  # a line: more cannot be told apart at this width
_NOISY = 60  # points: a longer line has a trend
_MARKED = 40  # points: a longer line needs no mark at each
_STOPS = 60  # places along the steps where the mouse reads values
_READ = 12  # lines of a reading
_LETTER, _LINE = 6.6, 15  # a reading's text, about


@dataclass(frozen=True)
class Series:
    """A line: its name and points (step, value); values that are not finite are left out."""

    name: str
    points: list[tuple[float, float]]
    colour: int | None = None
    """Of the page's, counted from 0; past the last they come again, dashed. None: the next one."""
    faint: bool = False
    """Thin, without a name in the key: one of several that another line stands for."""
    trend: bool = False
    """Noisy: its running mean is drawn over it. Key and reading still give its own values."""


def line_chart(
    title: str,
    series: list[Series],
    label: Callable[[float], str] = "{:g}".format,
    from_zero: bool = False,
) -> str:
    """A figure with one line for each series over the training step.

    Under the mouse it reads out the values at a step, without a script.

    Args:
        title: the caption.
        series: any number; those that say no colour get one each.
        label: writes a value at the axis, in the key and in the reading.
        from_zero: the vertical axis starts at 0.

    Returns:
        HTML; the empty string where no series has a finite value.
    """
    coloured = [replace(s, colour=i) if s.colour is None else s for i, s in enumerate(series)]
    drawn = [replace(s, points=_finite(s.points)) for s in coloured]
    drawn = [s for s in drawn if s.points]
    if not drawn:
        return ""
    x_axis = _Axis([0.0, *(x for s in drawn for x, _ in s.points)], _LEFT, _WIDTH - _RIGHT)
    values = [y for s in drawn for _, y in s.points]
    y_axis = _Axis([*values, 0.0] if from_zero else values, _HEIGHT - _BOTTOM, _TOP)
    y_axis.end_at_ticks()
    lines = "".join(_line(line, x_axis, y_axis) for line in drawn)
    named = [line for line in drawn if not line.faint]
    return (
        f"<figure><figcaption>{escape(title)}<span>{_key(named, label)}</span></figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{_frame(x_axis, y_axis, label)}{lines}{_readings(named, x_axis, y_axis, label)}"
        "</svg></figure>"
    )


def line_style(colour: int) -> str:
    """The page's classes for a `Series.colour`."""
    return f"c{colour % COLOURS}{' dashed' if colour // COLOURS % 2 else ''}"


class _Axis:
    """Maps the range of `values` to the pixels from `start` to `end`."""

    def __init__(self, values: list[float], start: float, end: float) -> None:
        self.low, self.high = min(values), max(values)
        if self.low == self.high:
            margin = abs(self.low) / 10 or 1.0
            self.low, self.high = self.low - margin, self.high + margin
        self.start, self.end = start, end

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """About five round numbers within the range."""
        step = self._step()
        # To the last bit a range that ends at a tick may not.
        first, last = math.ceil(self.low / step - 1e-6), math.floor(self.high / step + 1e-6)
        return [index * step for index in range(first, last + 1)]

    def end_at_ticks(self) -> None:
        """Widen the range to round numbers."""
        step = self._step()
        self.low = math.floor(self.low / step + 1e-6) * step
        self.high = math.ceil(self.high / step - 1e-6) * step

    def _step(self) -> float:
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)


def _frame(x_axis: _Axis, y_axis: _Axis, label: Callable[[float], str]) -> str:
    parts = []
    for tick in y_axis.ticks():
        y = y_axis.place(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        text = escape(label(tick))
        parts.append(f'<text x="{_LEFT - 8}" y="{y}" dy="0.32em" text-anchor="end">{text}</text>')
    for tick in x_axis.ticks():
        if tick == int(tick):
            x, y = x_axis.place(tick), _HEIGHT - _BOTTOM + 18
            parts.append(f'<text x="{x}" y="{y}" text-anchor="middle">{int(tick):,}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">step</text>')
    return "".join(parts)


def _style(line: Series) -> str:
    return line_style(line.colour or 0) + (" faint" if line.faint else "")


def _line(line: Series, x_axis: _Axis, y_axis: _Axis) -> str:
    if line.trend and len(line.points) > _NOISY:
        noise = replace(line, faint=True, trend=False)
        mean = replace(line, points=_running_mean(line.points), trend=False)
        return _line(noise, x_axis, y_axis) + _line(mean, x_axis, y_axis)
    places = [(x_axis.place(x), y_axis.place(y)) for x, y in _thinned(line.points)]
    path = " ".join(f"{x},{y}" for x, y in places)
    drawn = f'<polyline class="line {_style(line)}" points="{path}"/>'
    if len(places) <= _MARKED and not line.faint:
        drawn += "".join(
            f'<circle class="{_style(line)}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in places
        )
    return drawn


def _key(named: list[Series], label: Callable[[float], str]) -> str:
    """The names, each with its last value."""
    return "".join(
        f'<span class="key {_style(line)}">{escape(line.name)} '
        f"<b>{escape(label(line.points[-1][1]))}</b></span>"
        for line in named
    )


def _readings(
    named: list[Series], x_axis: _Axis, y_axis: _Axis, label: Callable[[float], str]
) -> str:
    """Strips that lie over the plot, one a step; each shows its values while the mouse is in it."""
    if not named:
        return ""
    steps = sorted({x for line in named for x, _ in line.points})
    count = min(_STOPS, len(steps))
    # Evenly spread over the recorded steps, with the first and the last.
    stops = [steps[round(i * (len(steps) - 1) / max(count - 1, 1))] for i in range(count)]
    places = [x_axis.place(stop) for stop in stops]
    ends = [(a + b) / 2 for a, b in pairwise(places)]
    strips = zip(stops, places, [_LEFT, *ends], [*ends, _WIDTH - _RIGHT], strict=True)
    parts = []
    for stop, x, left, right in strips:
        values = [(line, _nearest(line.points, stop)) for line in named[:_READ]]
        rows = [f"step {stop:,.0f}", *(f"{line.name} {label(v)}" for line, (_, v) in values)]
        if len(named) > _READ:
            rows.append(f"and {len(named) - _READ} more")
        width = 14 + _LETTER * max(map(len, rows))
        at = x + 8 if x + 8 + width < _WIDTH else max(0.0, x - 8 - width)
        text = "".join(
            f'<text x="{at + 7:.1f}" y="{_TOP + 16 + _LINE * i}">{escape(row)}</text>'
            for i, row in enumerate(rows)
        )
        dots = "".join(
            f'<circle class="{_style(line)}" cx="{x_axis.place(px)}" cy="{y_axis.place(py)}" '
            'r="3.5"/>'
            for line, (px, py) in values
        )
        parts.append(
            f'<g class="at"><rect class="strip" x="{left:.1f}" y="{_TOP}" '
            f'width="{max(right - left, 0):.1f}" height="{_HEIGHT - _TOP - _BOTTOM}"/>'
            f'<g><line class="cross" x1="{x}" x2="{x}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
            f'{dots}<rect class="box" x="{at:.1f}" y="{_TOP}" width="{width:.1f}" '
            f'height="{10 + _LINE * len(rows)}" rx="5"/>{text}</g></g>'
        )
    return "".join(parts)


def _nearest(points: list[tuple[float, float]], step: float) -> tuple[float, float]:
    after = bisect_left(points, (step, -math.inf))
    around = points[max(after - 1, 0) : after + 1]
    return min(around, key=lambda point: abs(point[0] - step))


def _finite(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return sorted((x, y) for x, y in points if math.isfinite(x) and math.isfinite(y))


def _running_mean(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Over a _NOISY-th of the points to either side, fewer at the ends."""
    reach = math.ceil(len(points) / _NOISY)
    sums = [0.0, *accumulate(y for _, y in points)]
    means = []
    for index, (x, _) in enumerate(points):
        around = min(reach, index, len(points) - 1 - index)
        low, high = index - around, index + around + 1
        means.append((x, (sums[high] - sums[low]) / (high - low)))
    return means


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The lowest and the highest of each few, so that a spike stays; and the last."""
    if len(points) <= _POINTS:
        return points
    size = math.ceil(2 * len(points) / _POINTS)
    kept = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        extremes = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        kept += sorted(extremes)
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]
