"""A run as its folder tells it: settings, numbers, curves, how it ended."""

import statistics
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig

from vgglab.comparison.settings import LEFT_OUT, Settings, settings_of
from vgglab.config.stored import CONFIG, Stored, read_stored
from vgglab.errors import InputError
from vgglab.files import is_occupied, read_as
from vgglab.reporting.history import Curve, best_validation, curve, read_history
from vgglab.reporting.record import NetworkRecord
from vgglab.reporting.status import Outcome, read_status, state_of

CURVES = ("train/loss", "val/loss", "val/top1", "lr")
BEST = "best_val/top1"
BEST_EPOCH = "best_val/epoch"

_RATE = "throughput/images_per_second"
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Run:
    """One folder of scripts/train.py, or of scripts/evaluate.py."""

    folder: Path
    name: str
    seed: int | None
    trained: Settings | None
    """How the network was trained. None: unknown, of an evaluation."""
    tested: Settings | None
    """How an evaluation tested it. None: this is a training run."""
    state: Outcome
    error: str | None
    """Why it failed, one line."""
    numbers: Mapping[str, float]
    """Metrics as in `metrics.json`, the best validation top-1 and its epoch, seconds,
    images_per_second, device_hours and parameters: those that are known."""
    curves: Mapping[str, Curve]
    """Of CURVES, by step."""

    @property
    def is_finished(self) -> bool:
        return self.state == "finished"


class OtherScriptError(Exception):
    """The folder is one of a script that neither trains nor evaluates."""


def read_run(
    folder: Path, name: str, problems: list[str], left_out: Collection[str] = LEFT_OUT
) -> Run:
    """Read a run's folder.

    Args:
        folder: the run's, perhaps a stranger's.
        name: what it is called beside the others.
        problems: gets a line for every file that is damaged; the run is then without it.
        left_out: settings that are not compared.

    Raises:
        InputError: its configuration is damaged.
        OtherScriptError: it is no run.
    """
    stored = read_stored(folder)
    config = stored.config
    is_plan = "hardware" in config  # of a training run that need not be
    if "trainer" in config and "optimizer" in config and not is_plan:
        return _training(folder, name, stored, problems, left_out)
    if "protocol" in config and "checkpoint" in config:
        return _evaluation(folder, name, stored, problems, left_out)
    raise OtherScriptError(str(folder))


def _training(
    folder: Path, name: str, stored: Stored, problems: list[str], left_out: Collection[str]
) -> Run:
    history = _read(problems, lambda: read_history(folder / "metrics.csv")) or []
    status = _read(problems, lambda: read_status(folder))
    curves = {name: curve(history, name) for name in CURVES}
    numbers = _metrics(folder, problems)
    state = state_of(status, bool(numbers), is_occupied(folder))
    numbers |= {**_best(history), **_size(folder, problems)}
    if rates := [value for _, value in curve(history, _RATE)]:
        numbers["images_per_second"] = statistics.median(rates)
    error = None
    if status is not None and status.status != "running":
        error = status.error
        numbers |= {"seconds": status.seconds, "device_hours": status.device_seconds / 3600}
    settings = settings_of(stored.config, stored.choices, stored.overrides, left_out)
    return Run(folder, name, _seed(stored.config), settings, None, state, error, numbers, curves)


def _evaluation(
    folder: Path, name: str, stored: Stored, problems: list[str], left_out: Collection[str]
) -> Run:
    """With the settings of the run whose checkpoint it tested, where that is to be found."""
    config = stored.config.copy()
    origin = _origin(folder, config.get("checkpoint"))
    trained, seed, numbers = None, None, _metrics(folder, problems)
    if origin is not None:
        theirs = read_stored(origin)
        trained = settings_of(theirs.config, theirs.choices, theirs.overrides, left_out)
        seed = _seed(theirs.config)
        numbers |= _size(origin, problems)
        config["checkpoint"] = Path(config["checkpoint"]).name
        # Beside those that it was trained on.
        config["tested"] = {"data": config.pop("data", None)}
    tested = settings_of(config, stored.choices, stored.overrides, left_out)
    state = state_of(None, bool(numbers), is_running=False)
    return Run(folder, name, seed, trained, tested, state, None, numbers, {})


def _origin(folder: Path, checkpoint: object) -> Path | None:
    """The folder of the run that wrote a checkpoint, which an evaluation named from where it was
    started: most often here, or where its own `logs` are."""
    if not isinstance(checkpoint, str):
        return None
    for start in (Path(), *folder.resolve().parents):
        run = (start / checkpoint).parent.parent
        if (run / CONFIG).is_file():
            return run
    return None


def _seed(config: DictConfig) -> int | None:
    seed = config.get("seed")
    return seed if isinstance(seed, int) else None


def _metrics(folder: Path, problems: list[str]) -> dict[str, float]:
    return _read(problems, lambda: read_as(folder / "metrics.json", dict[str, float])) or {}


def _size(folder: Path, problems: list[str]) -> dict[str, float]:
    found = _read(problems, lambda: read_as(folder / "network.json", NetworkRecord))
    return {} if found is None else {"parameters": found.parameters}


def _read(problems: list[str], read: Callable[[], Kind | None]) -> Kind | None:
    """None also where a file is damaged, which the problems then say."""
    try:
        return read()
    except InputError as error:
        problems.append(str(error))
        return None


def _best(history: list[dict[str, float]]) -> dict[str, float]:
    best = best_validation(history)
    if best is None:
        return {}
    found = {BEST: best["val/top1"]}
    return {**found, BEST_EPOCH: best["epoch"]} if "epoch" in best else found
