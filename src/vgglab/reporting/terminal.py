"""The terminal: one console for all output, and the table at the end of a run."""

import sys

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vgglab.text import is_accuracy, percent

# In a file rich would assume 80 columns and fold what is longer.
_FILE_WIDTH = 160

console = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH, markup=False, emoji=False)
"""Standard output. In a file: no colours, no animation, wide enough for every table of ours. File
and class names are printed as they are, whatever brackets and colons are in them."""


def print_result(metrics: dict[str, float], rows: dict[str, str]) -> None:
    """Print the short table at the end of a run, then one line for each of `rows`.

    Args:
        metrics: names such as `test/top1`: the part before the slash is the table's row, the other
            its column. Accuracies are 0 to 1 and are shown in percent.
        rows: a label, and a path or a command that must come out in one piece to be copied.
    """
    columns = list(dict.fromkeys(name.rpartition("/")[2] for name in metrics))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for column in columns:
        table.add_column(
            column.replace("top", "top-") if is_accuracy(column) else column, justify="right"
        )
    for prefix in dict.fromkeys(name.rpartition("/")[0] for name in metrics):
        values = (metrics.get(f"{prefix}/{column}") for column in columns)
        cells = [_format(c, v) for c, v in zip(columns, values, strict=True)]
        table.add_row(Text(prefix, style="bold"), *cells)
    if metrics:
        console.print(table)
    width = max(map(len, rows), default=0)
    for label, value in rows.items():
        line = Text.assemble((f"{label:<{width}}", "bold"), "  ", value)
        console.print(line, soft_wrap=True)


def _format(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    return percent(value) if is_accuracy(column) else f"{value:.4f}"
