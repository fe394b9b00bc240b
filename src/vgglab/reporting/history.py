"""`metrics.csv`: the history of a run, which survives its interruptions."""

import csv
import io
import math
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from vgglab.errors import InputError
from vgglab.files import flush, replace_file

Curve = list[tuple[float, float]]
"""Points (step, value)."""

_INDEX = ("step", "epoch")
_LARGEST = 1e150  # whose square is still a number


class CSVHistory(Logger):
    """Writes every metric to `save_dir/metrics.csv` as it is logged.

    Lightning's CSVLogger deletes the earlier history of a resumed run; this one continues it. The
    columns are `step`, `epoch` and then the metrics in the order of their first appearance; what
    is logged at one step shares a row. Nothing on disk changes before the first metric comes.

    Args:
        save_dir: the run's folder; made when missing.
        resume_step: optimiser steps already done by the run that this one continues. Rows from
            that step on will be logged again and are dropped; the others are kept byte for byte.
            None for a new run, which replaces the history of an earlier one in the same folder.
    """

    def __init__(self, save_dir: str, resume_step: int | None = None) -> None:
        super().__init__()
        self._save_dir = save_dir
        self._path = Path(save_dir) / "metrics.csv"
        self._resume_step = resume_step
        self._columns: list[str] = []
        self._row: dict[str, str] = {}
        self._row_start = 0  # in bytes

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return self._save_dir

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing: the configuration stands in `.hydra/config.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add the metrics to the row of `step`, which is on disk when this returns."""
        if not self._columns:
            self._begin()
        row = {"step": str(0 if step is None else step)}
        for name, value in metrics.items():
            row[name] = str(int(value)) if name in _INDEX else repr(float(value))
        if row.items() <= self._row.items():  # a checkpoint logs its step before Lightning does
            return
        self._add_columns([name for name in row if name not in self._columns])
        if self._row.get("step") == row["step"]:
            self._row.update(row)
            start = self._row_start
        else:
            self._row = row
            start = self._path.stat().st_size
        self._row_start = start
        line = ",".join(self._row.get(name, "") for name in self._columns) + "\n"
        with self._path.open("r+b") as file:
            file.seek(start)
            file.write(line.encode())
            file.truncate()

    @rank_zero_only
    def flush(self) -> None:
        """Wait until what was logged is on the disk."""
        if self._columns:
            flush(self._path)

    def _begin(self) -> None:
        kept: list[bytes] = []
        self._columns = list(_INDEX)
        if self._resume_step is not None and self._path.exists():
            header, *lines = self._path.read_bytes().splitlines(keepends=True) or [b""]
            self._columns = next(csv.reader([header.decode()]), self._columns)
            # A killed process may leave a last line without its end, a power cut zeros.
            steps = [(line.split(b",", 1)[0], line) for line in lines if line.endswith(b"\n")]
            kept = [
                line for step, line in steps if step.isdigit() and int(step) < self._resume_step
            ]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._write(kept)

    def _add_columns(self, names: list[str]) -> None:
        if not names:
            return
        _, *lines = self._path.read_bytes().splitlines(keepends=True)
        self._columns += names
        padded = [line.removesuffix(b"\n") + b"," * len(names) + b"\n" for line in lines]
        self._write(padded)
        self._row_start = self._path.stat().st_size - len(padded[-1]) if padded else 0

    def _write(self, lines: list[bytes]) -> None:
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow(self._columns)
        replace_file(self._path, header.getvalue().encode() + b"".join(lines))


def read_history(path: Path | str) -> list[dict[str, float]]:
    """The rows of a `metrics.csv`, in order; a metric that a row does not have is absent from it.

    A last line without its end, as a killed process may leave, is ignored. Where there is no file
    there are no rows.

    Raises:
        InputError: it cannot be read, or a cell is not a number.
    """
    if not Path(path).exists():
        return []
    rows: list[dict[str, float]] = []
    try:
        whole, _, _ = Path(path).read_text(encoding="utf-8").rpartition("\n")
        for number, row in enumerate(csv.DictReader(whole.splitlines()), start=2):
            try:
                rows.append({name: float(cell) for name, cell in row.items() if cell})
            except (TypeError, ValueError) as error:
                raise InputError(f"{path}, line {number}: not a row of numbers") from error
    except (OSError, ValueError, csv.Error) as error:  # such as bytes that are no text
        raise InputError(f"cannot read {path}: {error}") from error
    return rows


def is_sound(value: float) -> bool:
    """Whether it can be drawn and averaged."""
    return abs(value) < _LARGEST


def curve(history: Iterable[Mapping[str, float]], name: str) -> Curve:
    """The points of a metric that are sound."""
    return [
        (row["step"], row[name])
        for row in history
        if is_sound(row.get("step", math.nan)) and is_sound(row.get(name, math.nan))
    ]


def best_validation(history: Iterable[Mapping[str, float]]) -> Mapping[str, float] | None:
    """The row with the largest `val/top1`; None where there is none."""
    validated = [row for row in history if is_sound(row.get("val/top1", math.nan))]
    return max(validated, key=lambda row: row["val/top1"], default=None)
