"""Line charts as inline SVG: their colours are the page's, so they follow light and dark."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 520, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 12, 34  # around the plot; in the SVG's own units
_POINTS = 1500  # a line: more cannot be told apart at this width
_MARKED = 40  # points: a longer line needs no mark at each


@dataclass(frozen=True)
class Series:
    """A line: its name and points (step, value); values that are not finite are left out."""

    name: str
    points: list[tuple[float, float]]


def line_chart(
    title: str,
    series: list[Series],
    label: Callable[[float], str] = "{:g}".format,
    from_zero: bool = False,
) -> str:
    """A figure with one line for each series over the training step.

    Args:
        title: the caption.
        series: at most four; the page has as many colours.
        label: writes a value at the axis and in the hint that a point shows under the mouse.
        from_zero: the vertical axis starts at 0.

    Returns:
        HTML; the empty string where no series has a finite value.
    """
    drawn = [Series(s.name, _finite(s.points)) for s in series]
    drawn = [s for s in drawn if s.points]
    if not drawn:
        return ""
    x_axis = _Axis([x for s in drawn for x, _ in s.points], _LEFT, _WIDTH - _RIGHT)
    values = [y for s in drawn for _, y in s.points]
    y_axis = _Axis([*values, 0.0] if from_zero else values, _HEIGHT - _BOTTOM, _TOP)
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
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 2}" text-anchor="end">step</text>')
    legend = []
    for number, line in enumerate(drawn):
        places = [(x_axis.place(x), y_axis.place(y)) for x, y in line.points]
        path = " ".join(f"{x},{y}" for x, y in places)
        parts.append(f'<polyline class="line c{number}" points="{path}"/>')
        if len(places) <= _MARKED:
            for (x, y), (step, value) in zip(places, line.points, strict=True):
                hint = escape(f"{line.name} {label(value)} at step {step:,.0f}")
                parts.append(
                    f'<circle class="c{number}" cx="{x}" cy="{y}" r="3"><title>{hint}</title>'
                    "</circle>"
                )
        last = escape(label(line.points[-1][1]))
        legend.append(f'<span class="key c{number}">{escape(line.name)} <b>{last}</b></span>')
    return (
        f"<figure><figcaption>{escape(title)}<span>{''.join(legend)}</span></figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg></figure>"
    )


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
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [index * step for index in range(first, last + 1)]


def _finite(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    stride = math.ceil(len(finite) / _POINTS) or 1
    # From the end, so that the last value is the one that is drawn and named.
    return finite[::-1][::stride][::-1]
