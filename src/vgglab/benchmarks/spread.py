"""How figures that were measured several times are shown."""

import statistics
from collections.abc import Sequence

from rich import box
from rich.table import Table


def with_spread(values: Sequence[float], digits: int, unit: str = "") -> str:
    """The median, and in brackets the lowest and the highest."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})"


def measured_table(column: str, caption: str) -> Table:
    """An empty table of figures in one column, what they are of below it; 80 columns suffice."""
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption=caption,
        min_width=70,
        caption_justify="left",
        caption_style="",
    )
    table.add_column("")
    table.add_column(column, justify="right")
    return table
