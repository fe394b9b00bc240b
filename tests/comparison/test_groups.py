"""Grouping, means and deviations, order."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from tests.comparison.folders import TEST, read_all, run_folder
from vgglab.comparison.groups import Comparison, Measure, compare_runs
from vgglab.errors import InputError


def comparison(root: Path, sort: str = "test/top1") -> Comparison:
    return compare_runs(read_all(root), sort)


def seeds(root: Path, lr: float, *scores: float, **settings: Any) -> None:
    for seed, score in enumerate(scores):
        folder = root / f"lr={lr},seed={seed}"
        changes = {"seed": seed, "optimizer.lr": lr}
        metrics = {"test/top1": score, "test/loss": 1 - score}
        run_folder(folder, changes, metrics=metrics, **settings)


@trials(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
def test_mean_and_deviation_are_those_of_numpy(values: list[float]) -> None:
    measure = Measure(values)
    assert measure.mean == pytest.approx(np.mean(values))
    if len(values) == 1:
        assert measure.deviation is None
    else:
        assert measure.deviation == pytest.approx(np.std(values, ddof=1), abs=1e-8)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.7e308])
def test_what_diverged_has_no_mean(value: float) -> None:
    assert math.isnan(Measure([value, value, -value]).mean)
    assert math.isnan(Measure([-value, value]).deviation or 0.0)


def test_runs_that_differ_in_nothing_but_the_seed_are_one(tmp_path: Path) -> None:
    seeds(tmp_path, 0.1, 0.5, 0.75, 0.625)
    seeds(tmp_path, 0.2, 0.875)
    found = comparison(tmp_path)
    assert found.settings == ["optimizer.lr"]
    best, other = found.groups
    assert (best.number, best.settings, len(best.runs)) == (1, {"optimizer.lr": "0.2"}, 1)
    assert [run.seed for run in other.runs] == [0, 1, 2]
    measure = other.measure("test/top1")
    assert measure is not None
    assert measure.mean == pytest.approx(np.mean([0.5, 0.75, 0.625]))
    assert measure.deviation == pytest.approx(np.std([0.5, 0.75, 0.625], ddof=1))


def test_a_seed_that_ran_twice_counts_once(tmp_path: Path) -> None:
    seeds(tmp_path / "a", 0.1, 0.5, 0.75)
    seeds(tmp_path / "b", 0.1, 0.625)
    (group,) = comparison(tmp_path).groups
    measure = group.measure("test/top1")
    assert measure is not None
    assert sorted(measure.values) == [0.5625, 0.75]


def test_an_unfinished_run_does_not_touch_the_means_of_its_row(tmp_path: Path) -> None:
    seeds(tmp_path, 0.1, 0.5, 0.75)
    history = "step,epoch,val/top1\n1,0,0.125\n"
    stopped = {"status": "stopped", "seconds": 1.0}
    run_folder(tmp_path / "x", {"seed": 2}, history=history, status=stopped)
    run_folder(tmp_path / "y", {"seed": 3, "optimizer.lr": 0.3}, history=history, status=stopped)
    row, alone = comparison(tmp_path).groups
    assert len(row.runs) == 3
    assert len(row.counted) == 2
    assert row.measure("best_val/top1") is None
    assert row.measure("seconds") is None
    assert row.measure("test/top1") == Measure([0.5, 0.75])
    assert alone.measure("best_val/top1") == Measure([0.125])  # as far as it got
    assert alone.measure("test/top1") is None


def test_the_best_come_first_and_what_has_nothing_last(tmp_path: Path) -> None:
    seeds(tmp_path, 0.1, 0.5)
    seeds(tmp_path, 0.3, 0.25)
    seeds(tmp_path, 0.2, math.nan)
    run_folder(tmp_path / "none", {"optimizer.lr": 0.4})
    order = {
        "test/top1": ["0.1", "0.3", "0.2", "0.4"],
        "test/loss": ["0.1", "0.3", "0.2", "0.4"],
        "optimizer.lr": ["0.1", "0.2", "0.3", "0.4"],
    }
    for sort, expected in order.items():
        found = comparison(tmp_path, sort)
        lrs = [group.settings["optimizer.lr"] for group in found.groups]
        assert lrs == expected
    assert (found.best("test/top1"), found.best("test/loss")) == (0.5, 0.5)
    assert found.best("seconds") is None


def test_numbers_are_sorted_as_numbers_and_before_words(tmp_path: Path) -> None:
    for value in ("10", 9, "auto", 0.5):
        run_folder(tmp_path / str(value), {"data.batch_size": value})
    found = comparison(tmp_path, "data.batch_size").groups
    assert [g.settings["data.batch_size"] for g in found] == ["0.5", "9", "'10'", "auto"]


def test_an_unknown_name_to_sort_by(tmp_path: Path) -> None:
    seeds(tmp_path, 0.1, 0.5)
    with pytest.raises(InputError, match="sort=test/topp1: did you mean test/top1"):
        comparison(tmp_path, "test/topp1")
    assert comparison(tmp_path, "best_val/top1").groups  # which none has


def test_a_setting_of_another_version_is_absent_and_not_alike(tmp_path: Path) -> None:
    run_folder(tmp_path / "new", {"trainer.compile": False})
    run_folder(tmp_path / "old")
    found = comparison(tmp_path)
    assert found.settings == ["trainer.compile"]
    assert sorted(g.settings.get("trainer.compile", "-") for g in found.groups) == ["-", "false"]


def test_evaluations_stand_beside_the_runs_they_tested(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = run_folder(tmp_path / f"train/{seed}", {"seed": seed}, metrics={"test/top1": 0.5})
        for protocol in ("dense", "multi_crop"):
            changes = {"checkpoint": str(run / "checkpoints/best.ckpt"), "protocol": protocol}
            folder = tmp_path / "evaluate" / f"{seed}-{protocol}"
            run_folder(folder, changes, base=TEST, metrics={"test/top1": 0.75})
    found = comparison(tmp_path)
    assert found.settings == ["protocol"]
    rows = {g.settings.get("protocol"): [run.seed for run in g.runs] for g in found.groups}
    assert rows == {None: [0, 1], "dense": [0, 1], "multi_crop": [0, 1]}


def test_an_evaluation_on_other_data_is_another_row(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "train", metrics={"test/top1": 0.5})
    for name, data in {"same": None, "other": {"batch_size": 8}}.items():
        changes = {"checkpoint": str(run / "checkpoints/best.ckpt"), "data": data}
        run_folder(tmp_path / name, changes, base=TEST, metrics={"test/top1": 0.25})
    found = comparison(tmp_path)
    assert set(found.settings) == {"tested.data", "tested.data.batch_size", "protocol"}
    sizes = {group.settings.get("tested.data.batch_size") for group in found.groups}
    assert sizes == {"8", None}
    assert len(found.groups) == 3


def test_an_evaluation_alone_is_known_by_its_checkpoint(tmp_path: Path) -> None:
    run_folder(tmp_path / "a", {"checkpoint": "x.ckpt"}, base=TEST, metrics={"test/top1": 0.5})
    run_folder(tmp_path / "b", {"checkpoint": "y.ckpt"}, base=TEST, metrics={"test/top1": 0.6})
    assert [g.settings for g in comparison(tmp_path).groups] == [
        {"checkpoint": "y.ckpt"},
        {"checkpoint": "x.ckpt"},
    ]


def test_a_choice_stands_for_its_settings_in_the_label(tmp_path: Path) -> None:
    adam = {"optimizer._target_": "torch.optim.AdamW", "optimizer.lr": 0.001}
    run_folder(tmp_path / "a", choices={"optimizer": "sgd"}, metrics={"test/top1": 0.5})
    run_folder(tmp_path / "b", adam, choices={"optimizer": "adamw"}, metrics={"test/top1": 0.6})
    found = comparison(tmp_path)
    assert (found.choices, found.settings) == (["optimizer"], [])
    assert set(found.all_settings) == {"optimizer._target_", "optimizer.lr"}
    assert [found.label(group) for group in found.groups] == [
        "#1 optimizer=adamw",
        "#2 optimizer=sgd",
    ]


def test_the_mean_curve_takes_what_is_there(tmp_path: Path) -> None:
    run_folder(tmp_path / "a", {"seed": 0}, history="step,lr\n1,0.1\n2,0.3\n")
    run_folder(tmp_path / "b", {"seed": 1}, history="step,lr\n1,0.3\n")
    (group,) = comparison(tmp_path).groups
    assert group.curve("lr") == [(1, pytest.approx(0.2)), (2, 0.3)]
