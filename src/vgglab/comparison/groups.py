"""Runs that differ in nothing but the seed are one row: mean and deviation."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from vgglab.comparison.runs import BEST, BEST_EPOCH, Run
from vgglab.comparison.settings import differing, implied_by_choices, short_names
from vgglab.config.errors import did_you_mean
from vgglab.errors import InputError
from vgglab.reporting.history import Curve, is_sound
from vgglab.text import ACCURACIES, is_accuracy

# Of these the order is known; of other metrics nobody is called the best.
_SMALLER_IS_BETTER = ("loss",)
# What may be sorted by although no run has it yet.
_ALWAYS = ("test/top1", "test/top5", "test/loss", BEST)
_LAST = (True, 0.0, "")  # where `_place` puts what has nothing
COSTS = ("seconds", "images_per_second", "device_hours", "cost", "parameters")


@dataclass(frozen=True)
class Measure:
    """A number of several runs."""

    values: Sequence[float]

    @property
    def mean(self) -> float:
        """NaN where a run has diverged."""
        return statistics.fmean(self.values) if self._is_sound else math.nan

    @property
    def deviation(self) -> float | None:
        """Of the sample, with n - 1. None: of one value there is none."""
        if len(self.values) < 2:
            return None
        return statistics.stdev(self.values) if self._is_sound else math.nan

    @property
    def _is_sound(self) -> bool:
        return all(map(is_sound, self.values))


@dataclass(frozen=True)
class Group:
    """Runs whose settings are the same but for the seed."""

    number: int
    """Its place, counted from 1."""
    runs: Sequence[Run]
    settings: dict[str, str]
    """Those that differ between the groups."""
    choices: dict[str, str]
    """Those that stand for settings."""

    @property
    def counted(self) -> Sequence[Run]:
        """Whose numbers are averaged: the finished runs, or where there are none all, as far as
        they got."""
        return [run for run in self.runs if run.is_finished] or self.runs

    def measure(self, name: str) -> Measure | None:
        """A number of the runs that count and have it, a value a seed; None where none has."""
        seeds: dict[object, list[float]] = {}
        for run in self.counted:
            if name in run.numbers:
                seeds.setdefault(_seed(run), []).append(run.numbers[name])
        # Runs of one seed say nothing of the deviation over seeds: their mean counts once.
        return Measure([Measure(values).mean for values in seeds.values()]) if seeds else None

    def curve(self, name: str) -> Curve:
        """At each step the mean of the runs that have a value there."""
        at: dict[float, list[float]] = {}
        for run in self.runs:
            for step, value in run.curves.get(name, ()):
                at.setdefault(step, []).append(value)
        return [(step, statistics.fmean(at[step])) for step in sorted(at)]


@dataclass(frozen=True)
class Comparison:
    """All groups, best first, and what tells them apart."""

    groups: Sequence[Group]
    metrics: Sequence[str]
    """The names of those that a run has, with the best validation top-1 and its epoch."""
    costs: Sequence[str]
    """Of COSTS those that a run has."""
    settings: Sequence[str]
    """The other settings that differ."""
    implied: dict[str, list[str]] = field(default_factory=dict)
    """By group, the settings that its choice stands for."""

    @property
    def choices(self) -> list[str]:
        """Groups of files whose choice stands for settings."""
        return list(self.implied)

    @property
    def runs(self) -> list[Run]:
        return [run for group in self.groups for run in group.runs]

    @property
    def all_settings(self) -> list[str]:
        """Every setting that differs."""
        return [*self.settings, *(name for names in self.implied.values() for name in names)]

    @property
    def smoothing(self) -> dict[float, list[int]]:
        """The numbers of the groups by the label smoothing in their loss; of several kinds, the
        losses are not one measure."""
        found: dict[float, list[int]] = {}
        for group in self.groups:
            if any(direction_of(name) < 0 for run in group.runs for name in run.numbers):
                found.setdefault(_smoothing(group.runs[0]), []).append(group.number)
        return found

    def best(self, name: str) -> float | None:
        """The best mean; None where nobody can say which is better, or none is."""
        direction = direction_of(name)
        if direction < 0 and len(self.smoothing) > 1:
            return None
        measures = [m for group in self.groups if (m := group.measure(name)) is not None]
        means = {measure.mean for measure in measures if not math.isnan(measure.mean)}
        if direction == 0 or len(means) < 2:
            return None
        return max(means, key=lambda mean: direction * mean)

    def label(self, group: Group) -> str:
        """Its number and what is special to it, for the key of a chart."""
        names = short_names([*self.choices, *self.settings])
        special = {**group.choices, **group.settings}
        shown = [f"{names[name]}={value}" for name, value in special.items() if name in names]
        return " ".join([f"#{group.number}", *shown])


def count_seeds(runs: Sequence[Run]) -> int:
    """How many values the runs are good for; of an unknown seed, one each."""
    return len({_seed(run) for run in runs})


def direction_of(name: str) -> int:
    """1 where more is better, -1 where less is, 0 where nobody knows."""
    end = name.rpartition("/")[2]
    if is_accuracy(name):
        return 1
    return -1 if end in _SMALLER_IS_BETTER else 0


def compare_runs(runs: Sequence[Run], sort: str) -> Comparison:
    """Group the runs and put the best first.

    Args:
        runs: at least one.
        sort: a metric, a setting that differs, or one of COSTS. Metrics are sorted best first;
            what has none comes last.

    Raises:
        InputError: there is nothing of this name.
    """
    apart = _what_differs(runs)
    implied = implied_by_choices([run.trained for run in runs if run.trained is not None], apart)
    hidden = {name for names in implied.values() for name in names}
    settings = [name for name in apart if name not in hidden]
    alike: dict[object, list[Run]] = {}
    for run in runs:
        alike.setdefault(_key(run), []).append(run)
    groups = [_group(members, apart, list(implied)) for members in alike.values()]
    metrics = _metrics(runs)
    costs = [name for name in COSTS if any(name in run.numbers for run in runs)]
    sortable = [*_ALWAYS, *metrics, *costs, *implied, *apart]
    if sort not in sortable:
        raise InputError(f"sort={sort}: {did_you_mean(sort, dict.fromkeys(sortable))}")
    groups.sort(key=lambda group: (_place(group, sort), _typed_order(group)))
    numbered = [replace(group, number=n) for n, group in enumerate(groups, start=1)]
    return Comparison(numbered, metrics, costs, settings, implied)


def _smoothing(run: Run) -> float:
    """scripts/evaluate.py takes the plain cross entropy, however the network was trained."""
    if run.trained is None or run.tested is not None:
        return 0.0
    try:
        return float(run.trained.values.get("loss.label_smoothing", "0"))
    except ValueError:  # a stranger's
        return math.nan


def _seed(run: Run) -> object:
    return run.name if run.seed is None else run.seed


def _what_differs(runs: Sequence[Run]) -> list[str]:
    """Among the training settings, then among those of the tests; the protocol also where some
    were tested by another script than the one that trained them."""
    trained = [run.trained for run in runs if run.trained is not None]
    tested = [run.tested for run in runs if run.tested is not None]
    names = [*differing(trained), *differing(tested)]
    if 0 < len(tested) < len(runs) and "protocol" not in names:
        names.append("protocol")
    if len(trained) < len(runs) and "checkpoint" not in names:
        names.append("checkpoint")
    return list(dict.fromkeys(names))


def _key(run: Run) -> object:
    return tuple(
        None if settings is None else tuple(sorted(settings.values.items()))
        for settings in (run.trained, run.tested)
    )


def _group(members: Sequence[Run], names: Sequence[str], choices: Sequence[str]) -> Group:
    known: dict[str, str] = {}
    trained, tested = members[0].trained, members[0].tested
    for settings in (tested, trained):
        found = {} if settings is None else settings.values
        known |= {name: found[name] for name in names if name in found}
    files = {} if trained is None else trained.choices
    chosen = {name: files[name] for name in choices if name in files}
    ordered = sorted(members, key=lambda run: (run.seed is None, run.seed or 0, run.name))
    return Group(0, ordered, known, chosen)


def _metrics(runs: Sequence[Run]) -> list[str]:
    """Those of `metrics.json`, the accuracies on top, then the best validation."""
    other = (*COSTS, BEST, BEST_EPOCH)
    found = {name for run in runs for name in run.numbers if name not in other}
    ranks = (*ACCURACIES, *_SMALLER_IS_BETTER)

    def place(name: str) -> tuple[bool, int, str]:
        end = name.rpartition("/")[2]
        rank = ranks.index(end) if end in ranks else len(ranks)
        return not name.startswith("test/"), rank, name

    validated = [name for name in (BEST, BEST_EPOCH) if any(name in r.numbers for r in runs)]
    return [*sorted(found, key=place), *validated]


def _place(group: Group, sort: str) -> tuple[bool, float, str]:
    """Where it belongs: numbers in order, then words, then what has nothing."""
    measure = group.measure(sort)
    if measure is not None:
        if math.isnan(measure.mean):
            return _LAST
        return False, -measure.mean if direction_of(sort) > 0 else measure.mean, ""
    return _in_order({**group.choices, **group.settings}.get(sort))


def _in_order(value: str | None) -> tuple[bool, float, str]:
    if value is None:
        return _LAST
    try:
        return False, float(value), ""
    except ValueError:
        return False, math.inf, value


def _typed_order(group: Group) -> list[tuple[bool, float, str]]:
    return [_in_order(value) for value in (*group.choices.values(), *group.settings.values())]
