"""scripts/replay.py: a run once more, from its own folder, and whether its numbers come again."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from rich import box
from rich.table import Table
from rich.text import Text

from vgglab.config.jobs import ReplayConfig
from vgglab.config.schema import TrainConfig
from vgglab.config.typed import flatten
from vgglab.errors import InputError
from vgglab.files import read_json
from vgglab.reporting.environment import environment, open_run_folder, write_json
from vgglab.reporting.terminal import console
from vgglab.text import printable
from vgglab.training.agreement import Agreement, compare, read_results
from vgglab.training.bad_batch import replay_batch
from vgglab.training.finite import NonFiniteError
from vgglab.training.run import train
from vgglab.training.stored import stored_job

# Of environment.json: what is another for every run.
_OF_THE_RUN = ("command", "started")
_OTHER_SCHEDULE = (
    "the learning rate differs first: a schedule that depends on the run's length cannot be "
    "repeated after trainer.max_epochs or max_steps was raised on resume"
)
_SHOWN = 10  # differences on the terminal
_STORED = 1000  # and in replay.json


def replay(job: ReplayConfig) -> bool:
    """Train as the run of `job.run` did, in a new folder, or repeat the step of `job.batch` alone.

    Writes `replay.json` into the new folder.

    Returns:
        Whether all metrics and weights agree bit for bit. True for a batch, and in processes other
        than the first of a distributed run, which compare nothing.

    Raises:
        InputError: the folder holds no run, or one that cannot be repeated.
    """
    run_dir = Path(job.run_dir)
    if job.run is None:
        _replay_batch(job)
        return True
    folder = Path(job.run)
    again = stored_job(folder, run_dir, job.allowed_targets)
    original = read_results(folder)
    if not original.history and original.metrics is None:
        raise InputError(f"run={folder} has no metrics: nothing to compare")
    leads = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    changed = _changes(folder) if leads else {}
    if leads:
        _show_changes(folder, changed)
    notes = _train(again)
    if not leads:
        return True
    agreement = compare(original, read_results(run_dir))
    agreement.notes += notes
    first = agreement.differences[0].where if agreement.differences else None
    if any(d.name == "lr" and d.where == first for d in agreement.differences):
        agreement.notes.append(_OTHER_SCHEDULE)
    write_json(run_dir / "replay.json", _summary(job.run, changed, agreement))
    _show(agreement)
    return not agreement.differences


def _train(job: TrainConfig) -> list[str]:
    try:
        train(job)
    except NonFiniteError as error:  # as the run itself, perhaps
        return [f"the replay stopped: {error}"]
    return []


def _replay_batch(job: ReplayConfig) -> None:
    found = replay_batch(str(job.batch), job.allowed_targets)
    lines = found.lines()
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
    open_run_folder(Path(job.run_dir), job.composition)
    write_json(
        Path(job.run_dir, "replay.json"), {"batch": job.batch, "where": found.where, "lines": lines}
    )


def _changes(folder: Path) -> dict[str, list[Any]]:
    """What of versions, code and hardware is not as in the run: name to then and now."""
    path = folder / "environment.json"
    if not path.is_file():
        return {"environment.json": [None, "not compared"]}
    then, now = (
        flatten({k: v for k, v in found.items() if k not in _OF_THE_RUN})
        for found in (read_json(path), environment())
    )
    names = sorted(then.keys() | now.keys())
    return {n: [then.get(n), now.get(n)] for n in names if then.get(n) != now.get(n)}


def _show_changes(folder: Path, changed: dict[str, list[Any]]) -> None:
    if not changed:
        console.print(f"{folder}: no differences in versions, code and hardware")
        return
    title = "differences that may change the numbers"
    table = Table("", "in the run", "now", title=title, box=box.SIMPLE_HEAD)
    for name, values in changed.items():
        # The start of a digest tells it from others, and the whole would not fit a terminal.
        shown = [str(v)[:12] if name.startswith("git.") else v for v in values]
        table.add_row(*map(_plain, (name, *shown)))
    console.print(table)


def _show(agreement: Agreement) -> None:
    for note in agreement.notes:
        console.print(note)
    count = len(agreement.differences)
    if not count:
        console.print(f"bit for bit the same: {agreement.compared}", style="bold green")
        return
    title = f"the first {_SHOWN} differences; more in replay.json" if count > _SHOWN else None
    table = Table(
        "where", "what", "in the run", "now", "relative", title=title, box=box.SIMPLE_HEAD
    )
    for d in agreement.differences[:_SHOWN]:
        relative = "-" if d.relative is None else f"{d.relative:.2g}"
        table.add_row(*map(_plain, (d.where, d.name, d.original, d.replayed, relative)))
    console.print(table)
    largest = agreement.largest
    most = (
        f", the largest {largest.relative:.2g} ({largest.where}: {largest.name})" if largest else ""
    )
    console.print(
        f"NOT the same: {count:,} differences in {agreement.compared}{most}", style="bold red"
    )


def _plain(value: object) -> Text:
    return Text("-" if value is None else printable(str(value)))


def _summary(run: str, changed: dict[str, list[Any]], agreement: Agreement) -> dict[str, Any]:
    largest = agreement.largest
    return {
        "run": run,
        "same": not agreement.differences,
        "environment": {name: {"then": old, "now": new} for name, (old, new) in changed.items()},
        "compared": {
            "rows": agreement.rows,
            "metrics": agreement.metrics,
            "tensors": agreement.tensors,
        },
        "notes": agreement.notes,
        "differences": len(agreement.differences),
        "first_differences": [asdict(d) for d in agreement.differences[:_STORED]],
        "largest_difference": asdict(largest) if largest else None,
    }
