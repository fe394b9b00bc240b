"""Predictions on standard output: for people as a table, for programs as JSON and CSV."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len, chop_cells
from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vgglab.prediction.answers import Prediction
from vgglab.reporting.terminal import console
from vgglab.text import printable

# Columns of the terminal.
_BAR, _PERCENT, _MARK = 12, len("100.0%"), len("right")
_FIXED = _BAR + _PERCENT + _MARK + 4 * 2  # and what lies between
_NARROWEST = 14
_UNREADABLE = "cannot be read"
_AT_A_TIME = 100  # images in one of rich's tables, which needs all its rows at once


def print_table(predictions: Sequence[Prediction]) -> None:
    """A row a class, with bars; names that do not fit are folded."""
    names = [printable(str(found.path)) for found in predictions]
    classes = [printable(name) for found in predictions for name, _ in found.ranked]
    if not all(found.ranked for found in predictions):
        classes.append(_UNREADABLE)
    room = max(console.width - _FIXED, 2 * _NARROWEST)
    longest = max(map(cell_len, names))
    class_width = min(max(map(cell_len, [*classes, "class"])), max(room // 2, room - longest))
    image_width = max(min(longest, room - class_width), len("image"))
    judged = any(found.true_class for found in predictions)
    for start in range(0, len(predictions), _AT_A_TIME):
        table = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            collapse_padding=True,
            show_header=start == 0,
        )
        table.add_column("image", width=image_width, overflow="fold")
        table.add_column("class", width=class_width, overflow="fold")
        table.add_column("probability", width=_BAR)
        table.add_column("", width=_PERCENT, justify="right")
        if judged:
            table.add_column("", width=_MARK)
        part = slice(start, start + _AT_A_TIME)
        for name, found in zip(names[part], predictions[part], strict=True):
            rows = list(_rows(found))
            lines = _folded(name, image_width)
            lines += [""] * (len(rows) - len(lines))
            lines[len(rows) - 1 :] = ["\n".join(lines[len(rows) - 1 :])]
            for line, row in zip(lines, rows, strict=True):
                table.add_row(line, *row[: 4 if judged else 3])
            table.add_row("")
        console.print(table)


def _folded(path: str, width: int) -> list[str]:
    """In lines that fit, between folders where that fills a line by half."""
    lines = []
    while cell_len(path) > width:
        fits = len(chop_cells(path, width)[0])
        folder = path.rfind("/", fits // 2, fits) + 1
        lines.append(path[: folder or fits])
        path = path[folder or fits :]
    return [*lines, path]


def _rows(found: Prediction) -> Iterator[tuple[RenderableType, ...]]:
    """Class, bar, probability and mark."""
    if not found.ranked:
        yield Text(_UNREADABLE, style="yellow"), "", "", ""
        return
    for place, (name, probability) in enumerate(found.ranked):
        is_true = name == found.true_class
        mark = Text("")
        if is_true:
            mark = Text("right", "green") if place == 0 else Text("true", "green")
        elif place == 0 and found.true_class is not None:
            mark = Text("wrong", "red")
        style = "bold" if place == 0 else ""
        bar = ProgressBar(1, probability, _BAR, complete_style="cyan", finished_style="cyan")
        yield Text(printable(name), style), bar, Text(f"{probability:.1%}", style), mark
    if found.true_class is not None and all(n != found.true_class for n, _ in found.ranked):
        yield Text(printable(found.true_class), "dim"), "", "", Text("true", "green")


def print_json(predictions: Sequence[Prediction]) -> None:
    """A list of `{"image": ..., "top": [{"class": ..., "probability": ...}, ...]}`; `top` is null
    where the file cannot be read."""
    rows = [
        {
            "image": str(found.path),
            "top": [{"class": name, "probability": value} for name, value in found.ranked] or None,
        }
        for found in predictions
    ]
    print(json.dumps(rows, indent=2))


def print_csv(predictions: Sequence[Prediction]) -> None:
    """A row a class; files that cannot be read have none."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name may be any bytes, and a program needs these.
        sys.stdout.reconfigure(errors="surrogateescape")
    writer = csv.writer(sys.stdout)
    writer.writerow(["image", "rank", "class", "probability"])
    for found in predictions:
        writer.writerows(
            [found.path, place, name, f"{value:.6f}"]
            for place, (name, value) in enumerate(found.ranked, 1)
        )
