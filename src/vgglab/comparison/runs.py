"""A run as its folder tells it: settings, figures, curves, how it ended."""

import csv
import math
import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from vgglab.comparison.settings import LEFT_OUT, Settings, settings_of
from vgglab.config.stored import CONFIG, Stored, read_stored
from vgglab.errors import InputError
from vgglab.files import is_occupied, read_json
from vgglab.reporting.history import read_history
from vgglab.reporting.status import read_status

CURVES = ("train/loss", "val/loss", "val/top1", "lr")
BEST = "best_val/top1"
BEST_EPOCH = "best_val/epoch"
FINISHED = "finished"

_LARGEST = 1e150  # whose square is still a number
_RATE = "throughput/images_per_second"
Curve = list[tuple[float, float]]


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
    state: str
    """`finished`, `stopped`, `failed`, `running`; `did not end` of a run that was killed;
    `unfinished` where nothing says which."""
    error: str | None
    """Why it failed, one line."""
    figures: Mapping[str, float]
    """Metrics as in `metrics.json`, the best validation top-1 and its epoch, seconds,
    images_per_second, device_hours and parameters: those that are known."""
    curves: Mapping[str, Curve]
    """Of CURVES, by step."""

    @property
    def is_finished(self) -> bool:
        return self.state == FINISHED


class OtherScriptError(Exception):
    """The folder is one of a script that neither trains nor evaluates."""


def is_sound(value: float) -> bool:
    """Whether it can be averaged."""
    return abs(value) < _LARGEST


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
    history = _history(folder / "metrics.csv", problems)
    final = _metrics(folder / "metrics.json", problems)
    state, error, spent = _status(folder, bool(final), problems)
    curves = {name: _curve(history, name) for name in CURVES}
    figures = {**final, **_best(history), **spent, **_size(folder, problems)}
    if rates := [value for _, value in _curve(history, _RATE)]:
        figures["images_per_second"] = statistics.median(rates)
    settings = settings_of(stored.config, stored.choices, stored.overrides, left_out)
    return Run(folder, name, _seed(stored.config), settings, None, state, error, figures, curves)


def _evaluation(
    folder: Path, name: str, stored: Stored, problems: list[str], left_out: Collection[str]
) -> Run:
    """With the settings of the run whose checkpoint it tested, where that is to be found."""
    config = stored.config.copy()
    origin = _origin(folder, config.get("checkpoint"))
    trained, seed, figures = None, None, _metrics(folder / "metrics.json", problems)
    if origin is not None:
        theirs = read_stored(origin)
        trained = settings_of(theirs.config, theirs.choices, theirs.overrides, left_out)
        seed = _seed(theirs.config)
        figures |= _size(origin, problems)
        config["checkpoint"] = Path(config["checkpoint"]).name
        # Beside those that it was trained on.
        config["tested"] = {"data": config.pop("data", None)}
    tested = settings_of(config, stored.choices, stored.overrides, left_out)
    state = FINISHED if figures else "unfinished"
    return Run(folder, name, seed, trained, tested, state, None, figures, {})


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


def _status(
    folder: Path, has_result: bool, problems: list[str]
) -> tuple[str, str | None, dict[str, float]]:
    """How the run ended, why, and what it took if it has ended."""
    try:
        status = read_status(folder)
    except InputError as error:
        problems.append(str(error))
        status = None
    if status is None:
        return FINISHED if has_result else "unfinished", None, {}
    if status.status == "running":
        return "running" if is_occupied(folder) else "did not end", None, {}
    spent = {"seconds": status.seconds, "device_hours": status.device_seconds / 3600}
    return status.status, status.error, spent


def _history(path: Path, problems: list[str]) -> list[dict[str, float]]:
    if not path.exists():
        return []
    try:
        return read_history(path)
    except InputError as error:
        problems.append(str(error))
    except (OSError, ValueError, csv.Error) as error:  # such as bytes that are no text
        problems.append(f"cannot read {path}: {error}")
    return []


def _metrics(path: Path, problems: list[str]) -> dict[str, float]:
    if not path.exists():
        return {}
    try:
        content = read_json(path)
        numbers = {name: _number(value) for name, value in content.items()}
    except InputError as error:
        problems.append(str(error))
        return {}
    except (TypeError, OverflowError):
        problems.append(f"{path} holds something other than numbers")
        return {}
    return numbers


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def _size(folder: Path, problems: list[str]) -> dict[str, float]:
    path = folder / "network.json"
    if not path.exists():
        return {}
    try:
        return {"parameters": _number(read_json(path).get("parameters"))}
    except InputError as error:
        problems.append(str(error))
    except (TypeError, OverflowError):
        problems.append(f"{path} does not say how many parameters there are")
    return {}


def _curve(history: list[dict[str, float]], name: str) -> Curve:
    return [
        (row["step"], row[name])
        for row in history
        if is_sound(row.get("step", math.nan)) and is_sound(row.get(name, math.nan))
    ]


def _best(history: list[dict[str, float]]) -> dict[str, float]:
    validated = [row for row in history if is_sound(row.get("val/top1", math.nan))]
    if not validated:
        return {}
    best = max(validated, key=lambda row: row["val/top1"])
    found = {BEST: best["val/top1"]}
    return {**found, BEST_EPOCH: best["epoch"]} if "epoch" in best else found
