"""How far long work is: a bar on a terminal, a line now and then in a log file.

Both go to standard error, because standard output is for results, and come from the first process
of a run alone. Work that is short says nothing.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from vgglab.ranks import process_rank
from vgglab.text import duration, shortened

Advance = Callable[[int], None]
Item = TypeVar("Item")

# Seconds.
_BAR_AFTER = 2.0
_BETWEEN_DRAWINGS = 0.25
_LINE_AFTER = 10.0
_BETWEEN_LINES = 30.0
_RECENT = 60.0  # what the rate is of, at least
_FEW = 10  # units that make a rate

# Columns of a terminal, of which most have 80.
_BAR = 12
_FIGURES = 58  # with the bar


class Work:
    """How much of something is done, and how fast.

    Args:
        what: shown before the figures.
        total: units in all, where known.
        done: units done before, by an earlier process.
        unit: its plural; `bytes` are shown as megabytes.
    """

    def __init__(
        self, what: str, total: int | None, *, done: int = 0, unit: str = "images"
    ) -> None:
        self.what = what
        self.total = total
        self.done = done
        self.note = ""
        """Shown behind the figures."""
        self._scale, self._unit = (1_000_000, "MB") if unit == "bytes" else (1, unit)
        self._seen = deque([(time.monotonic(), done)])

    def advance(self, units: int) -> None:
        """Count units just done."""
        self.done += units

    def figures(self, *, share: bool = True) -> str:
        """Such as `300 of 1,000 images (30 %), 100/s, 7 s left`; a bar shows the share itself."""
        text = f"{self.done // self._scale:,}"
        if self.total:
            text += f" of {self.total // self._scale:,}"
        text += f" {self._unit}"
        if self.total and share:
            text += f" ({100 * min(self.done / self.total, 1):.0f} %)"
        parts = [text]
        if rate := self._rate():
            parts.append(self._speed(rate / self._scale))
            if self.total:
                parts.append(f"{duration(round(max(self.total - self.done, 0) / rate))} left")
        return ", ".join([*parts, self.note] if self.note else parts)

    def _rate(self) -> float:
        """Units a second, lately: what was done before, or skipped, tells little about the rest."""
        now, done = time.monotonic(), self.done
        self._seen.append((now, done))
        while len(self._seen) > 2:
            then, before = self._seen[1]
            if now - then < _RECENT or done - before < _FEW:
                break
            self._seen.popleft()
        then, before = self._seen[0]
        return (done - before) / max(now - then, 1e-9)

    def _speed(self, rate: float) -> str:
        what = " MB" if self._unit == "MB" else ""
        if rate < 1:
            return f"{60 * rate:.2g}{what}/min"
        return f"{rate:,.0f}{what}/s" if rate >= 10 else f"{rate:.1f}{what}/s"


@contextmanager
def progress(
    what: str, total: int | None, *, done: int = 0, unit: str = "images"
) -> Iterator[Advance]:
    """Show how far a block is; yields a function that takes the number of units just done.

    Such blocks may lie in one another. The arguments are those of `Work`.
    """
    work = Work(what, total, done=done, unit=unit)
    with shown(work):
        yield work.advance


def each(items: Sequence[Item], what: str, *, unit: str) -> Iterator[Item]:
    """The items, with a `progress` that counts them."""
    with progress(what, len(items), unit=unit) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def shown(work: Work) -> Iterator[None]:
    """Show how far the work is, once it has taken a while, until the block ends."""
    if process_rank():
        yield
        return
    console = Console(stderr=True, markup=False, emoji=False)
    ended = threading.Event()
    # A thread, because one unit may take minutes; and a call of `advance` costs nothing this way.
    target = _draw if console.is_terminal else _say
    thread = threading.Thread(target=target, args=(work, ended, console), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _say(work: Work, ended: threading.Event, console: Console) -> None:
    wait = _LINE_AFTER
    while not ended.wait(wait):
        wait = _BETWEEN_LINES
        console.print(f"{work.what}: {work.figures()}", soft_wrap=True, highlight=False)


def _draw(work: Work, ended: threading.Event, console: Console) -> None:
    if ended.wait(_BAR_AFTER):
        return
    with _display(console) as display:
        room = max(console.width - _FIGURES, 10)
        row = display.add_task(
            shortened(work.what, room), total=work.total, figures="", visible=False
        )
        while True:
            figures = work.figures(share=False)
            display.update(row, completed=work.done, figures=figures, visible=True, refresh=True)
            if ended.wait(_BETWEEN_DRAWINGS):
                break
        display.remove_task(row)


_lock = threading.Lock()
_users: list[Progress] = []  # the one display, as often as it is in use


def over_bars() -> bytes:
    """How a line must begin that goes to standard error past Python: it erases a bar's."""
    return b"\r\x1b[2K" if _users else b""


@contextmanager
def _display(console: Console) -> Iterator[Progress]:
    """The one of all bars, because a terminal holds one at a time."""
    with _lock:
        _users.append(_users[0] if _users else _new_display(console))
        display = _users[0]
    try:
        yield display
    finally:
        with _lock:
            _users.pop()
            if not _users:
                display.stop()


def _new_display(console: Console) -> Progress:
    display = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(_BAR, complete_style="cyan"),
        TextColumn("{task.fields[figures]}", markup=False),
        console=console,
        transient=True,
        auto_refresh=False,  # each bar's thread does it
        # Else what a program reads from standard output would go to standard error.
        redirect_stdout=sys.stdout.isatty(),
    )
    display.start()
    console.show_cursor(True)  # rich hides it, and a process that is killed would leave it so
    return display
