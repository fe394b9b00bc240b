"""Whether two runs have the same numbers, bit for bit, and if not, where they part."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from vgglab.errors import InputError
from vgglab.files import read_as
from vgglab.networks.weights import read_checkpoint
from vgglab.reporting.history import read_history

_CHECKPOINTS = ("last", "best")
_TIMINGS = "throughput/"  # how fast it went is what may differ


@dataclass(frozen=True)
class Results:
    """What a run's folder holds of its outcome."""

    history: list[dict[str, float]]
    """The rows of `metrics.csv` but for timings."""
    metrics: dict[str, float] | None
    """`metrics.json`. None: the run did not finish."""
    checkpoints: dict[str, tuple[int, dict[str, Tensor]]]
    """Of `last` and `best`, where they exist: the optimiser steps done, and the tensors."""


@dataclass(frozen=True)
class Difference:
    """One number, or tensor, that is not the same."""

    where: str
    name: str
    original: str
    replayed: str
    relative: float | None
    """|a - b| over the larger magnitude, of a tensor over all its elements. None where there is
    none: one of the two is absent or not finite, or only the shape or the type differs."""


@dataclass
class Agreement:
    """What was compared, and what differs."""

    rows: int = 0
    metrics: int = 0
    tensors: int = 0
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was not compared, and why."""

    @property
    def largest(self) -> Difference | None:
        """The difference with the largest relative difference; None where none has one."""
        return max(
            (d for d in self.differences if d.relative is not None),
            key=lambda d: d.relative or 0.0,
            default=None,
        )

    @property
    def compared(self) -> str:
        """Such as `42 rows, 3 final metrics, 20 tensors`."""
        counts = {"rows": self.rows, "final metrics": self.metrics, "tensors": self.tensors}
        return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def read_results(folder: Path) -> Results:
    """Read what a run has measured so far.

    Raises:
        InputError: a file cannot be read.
    """
    checkpoints = {}
    for name in _CHECKPOINTS:
        if (path := folder / "checkpoints" / f"{name}.ckpt").exists():
            checkpoints[name] = _read_tensors(path)
    return Results(
        _read_rows(folder / "metrics.csv"),
        read_as(folder / "metrics.json", dict[str, float]),
        checkpoints,
    )


def compare(original: Results, replayed: Results) -> Agreement:
    """Compare everything but timings; an unfinished original as far as it goes."""
    found = Agreement()
    _compare_histories(original, replayed, found)
    if original.metrics is not None:
        then, now = original.metrics, replayed.metrics or {}
        found.differences += _numbers_that_differ("metrics.json", then, now)
        found.metrics = len(then)
    for name in original.checkpoints.keys() & replayed.checkpoints.keys():
        _compare_checkpoints(name, original, replayed, found)
    for name in original.checkpoints.keys() ^ replayed.checkpoints.keys():
        found.notes.append(f"{name}.ckpt is in one of the two folders only: not compared")
    return found


def _compare_histories(original: Results, replayed: Results, found: Agreement) -> None:
    then, now = original.history, list(replayed.history)
    if original.metrics is None:
        found.notes.append(f"the run did not finish: {len(then):,} of {len(now):,} rows are there")
        if then and len(then) <= len(now):
            # More may have come into the last row.
            last = now[len(then) - 1]
            now[len(then) - 1] = {name: last[name] for name in then[-1] if name in last}
            now = now[: len(then)]
    for number, (old, new) in enumerate(zip(then, now, strict=False), start=1):
        where = f"row {number} (step {old.get('step', 0):.0f})"
        found.differences += _numbers_that_differ(where, old, new)
        found.rows += 1
    if len(then) != len(now):
        found.differences += _numbers_that_differ(
            "metrics.csv", {"rows": len(then)}, {"rows": len(now)}
        )


def _compare_checkpoints(name: str, original: Results, replayed: Results, found: Agreement) -> None:
    where = f"{name}.ckpt"
    (old_step, old), (new_step, new) = original.checkpoints[name], replayed.checkpoints[name]
    if old_step != new_step and original.metrics is None:
        found.notes.append(f"{where} is of step {old_step:,}, the replay's of step {new_step:,}")
        return
    steps = {"global_step": old_step}, {"global_step": new_step}
    found.differences += _numbers_that_differ(where, *steps)
    found.differences += _tensors_that_differ(where, old, new)
    found.tensors += len(old)


def _numbers_that_differ(
    where: str, then: Mapping[str, float], now: Mapping[str, float]
) -> Iterator[Difference]:
    for name in dict.fromkeys([*then, *now]):
        old, new = then.get(name), now.get(name)
        # Of floats `repr` is exact, tells -0 from 0, and calls two NaN the same.
        if repr(old) != repr(new):
            relative = None
            if old is not None and new is not None:
                relative = _relative(*(torch.tensor(v, dtype=torch.float64) for v in (old, new)))
            yield Difference(where, name, _number(old), _number(new), relative)


def _tensors_that_differ(
    where: str, then: Mapping[str, Tensor], now: Mapping[str, Tensor]
) -> Iterator[Difference]:
    for name in dict.fromkeys([*then, *now]):
        old, new = then.get(name), now.get(name)
        if old is None or new is None or _form(old) != _form(new):
            yield Difference(where, name, _kind(old), _kind(new), None)
        elif not torch.equal(_bits(old), _bits(new)):
            changed = int((old != new).sum())
            yield Difference(
                where, name, _kind(old), f"{changed:,} elements differ", _relative(old, new)
            )


def _relative(old: Tensor, new: Tensor) -> float | None:
    old, new = old.double(), new.double()
    scale = max(float(old.abs().max()), float(new.abs().max()))
    relative = float((old - new).abs().max()) / scale if scale else 0.0
    return relative if relative < float("inf") else None  # and so is NaN


def _number(value: float | None) -> str:
    return "absent" if value is None else repr(value)


def _form(tensor: Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.dtype, tensor.layout, tensor.device


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def _kind(tensor: Tensor | None) -> str:
    if tensor is None:
        return "absent"
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _read_rows(path: Path) -> list[dict[str, float]]:
    rows = read_history(path)
    return [{k: v for k, v in row.items() if not k.startswith(_TIMINGS)} for row in rows]


def _read_tensors(path: Path) -> tuple[int, dict[str, Tensor]]:
    content = read_checkpoint(path)
    try:
        state = content["state_dict"]
        return int(content["global_step"]), {
            name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path} is not a training checkpoint") from error
