"""How far a long copy is: a bar on a terminal, a line now and then in a log file."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_SECONDS_BETWEEN_LINES = 30.0

Unit = Literal["bytes", "images"]


@contextmanager
def progress(
    what: str, total: int | None, *, done: int = 0, unit: Unit = "bytes"
) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes the number of units just done.

    Args:
        what: shown before the figures.
        total: units in all, where known.
        done: units done before.
        unit: bytes are shown as megabytes with their speed.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what, total, done, unit)
        return
    figures: list[ProgressColumn] = (
        [DownloadColumn(), TransferSpeedColumn()] if unit == "bytes" else [MofNCompleteColumn()]
    )
    columns = [TextColumn("{task.description}"), BarColumn(), *figures, TimeRemainingColumn()]
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda units: bar.advance(task, units)


def _lines(what: str, total: int | None, done: int, unit: Unit) -> Callable[[int], None]:
    last = time.monotonic()

    def advance(units: int) -> None:
        nonlocal last, done
        done += units
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{what}: {_amount(done, total, unit)}", file=sys.stderr, flush=True)

    return advance


def _amount(done: int, total: int | None, unit: Unit) -> str:
    scale, name = (1_000_000, "MB") if unit == "bytes" else (1, unit)
    of = f" of {total // scale:,}" if total else ""
    return f"{done // scale:,}{of} {name}"
