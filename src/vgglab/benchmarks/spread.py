"""How a figure that was measured several times is shown."""

import statistics
from collections.abc import Sequence


def with_spread(values: Sequence[float], digits: int, unit: str = "") -> str:
    """The median, and in brackets the lowest and the highest."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})"
