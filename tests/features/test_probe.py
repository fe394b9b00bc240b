"""The linear probe: its splits, its choice of the constant and its score."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix
from tests.conftest import Compose

from vgglab.config.jobs import LinearProbeConfig
from vgglab.config.schema import parse
from vgglab.errors import InputError
from vgglab.features import probe as module
from vgglab.features.files import Features, Labels, create_features
from vgglab.features.probe import Split, draw_split, linear_probe, probe

CLASSES = ["ant", "bee", "cat"]
LABELS = np.arange(60, dtype=np.int64) % 3


def clusters(labels: Labels, *, seed: int = 0) -> npt.NDArray[np.float32]:
    """(N, 8) of norm 1: a direction a class, with some noise."""
    noise = np.random.default_rng(seed).normal(size=(len(labels), 8), scale=0.1)
    values = np.eye(8)[labels] + noise
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def write(
    path: Path,
    values: npt.NDArray[np.float32],
    labels: Labels | None = LABELS,
    classes: Sequence[str] = CLASSES,
) -> Path:
    names = [f"{number}.png" for number in range(len(values))]
    with create_features(path, values.shape[1], names, labels, list(classes)) as to:
        to[:] = values
    return path


def probed(composed: Compose, features: str, *overrides: str) -> dict[str, Any]:
    given = (f"features={features}", "train_per_class=10", "test_per_class=5", *overrides)
    return linear_probe(parse(composed("linear_probe", *given), LinearProbeConfig))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_what_is_separable_is_told_apart(
    composed: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    path = write(tmp_path / f"a{suffix}", clusters(LABELS))
    result = probed(composed, str(path), "format=json")
    assert result["test/mean_class_recall"] == 1
    assert result["test/mean_class_recall_std"] == 0
    assert len(result["splits"]) == 3
    assert json.loads(capsys.readouterr().out) == result
    assert json.loads((tmp_path / "run/metrics.json").read_text()) == result
    probed(composed, str(path))
    assert "mean class recall 100.0 ± 0.0 %" in capsys.readouterr().out


def test_labels_without_meaning_are_told_apart_by_chance(composed: Compose, tmp_path: Path) -> None:
    labels = np.random.default_rng(0).permutation(np.arange(600) % 3)
    path = write(tmp_path / "a.npz", clusters(np.arange(600) // 200), labels)
    sizes = ("train_per_class=50", "test_per_class=null", "constants=[0.1,1]")
    result = probed(composed, str(path), *sizes)
    # 1350 guesses at 1/3: a standard error of 1.3 points.
    assert result["test/mean_class_recall"] == pytest.approx(1 / 3, abs=0.06)
    assert result["test/mean_class_recall_std"] > 0


def test_two_networks_together_know_what_neither_knows(composed: Compose, tmp_path: Path) -> None:
    """One file tells ants from the others, the other one cats."""
    first = write(tmp_path / "D.npz", clusters(np.where(LABELS == 0, 0, 1)))
    second = write(tmp_path / "E.safetensors", clusters(np.where(LABELS == 2, 0, 1), seed=1))
    scores = [
        probed(composed, features)["test/mean_class_recall"]
        for features in (str(first), str(second), f"[{first},{second}]")
    ]
    assert max(scores[:2]) < 0.9
    assert scores[2] == 1


def test_deviation_is_that_of_a_sample(
    composed: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    path = write(tmp_path / "a.npz", values + np.eye(4, dtype=np.float32)[LABELS])
    result = probed(composed, str(path), "splits=4")
    recalls = [split["recall"] for split in result["splits"]]
    assert len(set(recalls)) > 1
    assert result["test/mean_class_recall"] == pytest.approx(np.mean(recalls))
    expected = np.sqrt(np.sum((recalls - np.mean(recalls)) ** 2) / 3)
    assert result["test/mean_class_recall_std"] == pytest.approx(expected)
    assert probed(composed, str(path), "splits=4") == result
    assert probed(composed, str(path), "splits=4", "seed=1") != result
    capsys.readouterr()
    assert probed(composed, str(path), "splits=1")["test/mean_class_recall_std"] is None
    assert "±" not in capsys.readouterr().out


def test_classes_count_the_same_however_many_their_images() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [100, 30, 20])
    values = clusters(labels) + generator.normal(size=(150, 8), scale=0.5).astype(np.float32)
    files = [Features(values, labels, [], CLASSES)]
    split = draw_split(labels, CLASSES, train_per_class=10, test_per_class=None, seed=[0])
    assert np.bincount(labels[split.test]).tolist() == [90, 20, 10]
    train = np.concatenate([split.fit, split.held_out])
    machine = module.LinearSVC(C=1.0, dual="auto", random_state=0).fit(values[train], labels[train])
    matrix = confusion_matrix(labels[split.test], machine.predict(values[split.test]))
    recalls = matrix.diagonal() / matrix.sum(1)
    assert recalls.mean() != pytest.approx(matrix.trace() / matrix.sum(), abs=1e-3)
    assert probe(files, labels, split, [1.0]).recall == pytest.approx(recalls.mean())


@given(
    counts=st.lists(st.integers(3, 40), min_size=1, max_size=6),
    train=st.integers(2, 50),
    test=st.none() | st.integers(1, 50),
    seed=st.integers(0, 2**32),
)
def test_splits_are_disjoint_and_stratified(
    counts: list[int], train: int, test: int | None, seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    classes = [f"class {number}" for number in range(len(counts))]

    def draw(*seeds: int) -> Split:
        return draw_split(labels, classes, train_per_class=train, test_per_class=test, seed=seeds)

    small = [number for number, count in enumerate(counts) if count <= train]
    if small:
        with pytest.raises(InputError, match=f"class {small[0]} .* it has {counts[small[0]]}$"):
            draw(seed)
        return
    split = draw(seed)
    every = np.concatenate(split)
    assert len(set(every.tolist())) == len(every)
    for number, count in enumerate(counts):
        fit, held_out, tested = (int((labels[part] == number).sum()) for part in split)
        assert fit + held_out == train
        assert held_out == max(1, round(train / 5))
        assert tested == min(count - train, test or count)
    assert all(map(np.array_equal, split, draw(seed)))


def test_another_seed_is_another_split() -> None:
    draws = [
        draw_split(LABELS, CLASSES, train_per_class=10, test_per_class=5, seed=(0, number))
        for number in range(2)
    ]
    assert not np.array_equal(np.sort(draws[0].test), np.sort(draws[1].test))


def test_no_test_image_has_a_say_in_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each constant is fitted on four fifths of the training images and judged on the others; only
    the last machine, of all training images, sees the test images."""
    values = clusters(LABELS)
    split = draw_split(LABELS, CLASSES, train_per_class=10, test_per_class=5, seed=[0])
    seen: list[tuple[str, float, list[int]]] = []

    class Recorded(module.LinearSVC):  # type: ignore[misc]
        def record(self, what: str, given: npt.NDArray[np.float32]) -> list[int]:
            rows = [int(np.flatnonzero((values == row).all(1))[0]) for row in given]
            seen.append((what, self.C, sorted(rows)))
            return rows

        def fit(self, given: npt.NDArray[np.float32], labels: Labels) -> Any:
            assert LABELS[self.record("fit", given)].tolist() == labels.tolist()
            return super().fit(given, labels)

        def predict(self, given: npt.NDArray[np.float32]) -> Any:
            self.record("predict", given)
            return super().predict(given)

    monkeypatch.setattr(module, "LinearSVC", Recorded)
    score = probe([Features(values, LABELS, [], CLASSES)], LABELS, split, [1, 0.01, 10])
    fit, held_out, test = (sorted(part.tolist()) for part in split)
    expected: list[tuple[str, float, list[int]]] = []
    for constant in (0.01, 1, 10):
        expected += [("fit", constant, fit), ("predict", constant, held_out)]
    expected += [("fit", score.constant, sorted(fit + held_out)), ("predict", score.constant, test)]
    assert seen == expected
    assert score.constant == 0.01  # all are right on separable images: the smallest


def test_the_best_constant_on_held_out_images_is_chosen() -> None:
    """Here a small constant cannot separate what a large one can."""
    labels = np.arange(200, dtype=np.int64) % 2
    values = clusters(labels)
    values[:, :2] *= 0.02  # the class is in the small numbers
    values[:, 2:] *= 5
    split = draw_split(labels, ["a", "b"], train_per_class=50, test_per_class=50, seed=[0])
    files = [Features(values, labels, [], ["a", "b"])]
    scores = {c: probe(files, labels, split, [c]) for c in (1e-4, 1e4)}
    assert scores[1e4].held_out_recall > scores[1e-4].held_out_recall
    assert probe(files, labels, split, [1e-4, 1e4]) == scores[1e4]
    assert probe(files, labels, split, [1e4, 1e-4]) == scores[1e4]


def test_what_cannot_be_probed_is_one_line(composed: Compose, tmp_path: Path) -> None:
    good = write(tmp_path / "a.npz", clusters(LABELS))
    with pytest.raises(InputError, match="no image of class ant to test on: it has 20"):
        probed(composed, str(good), "train_per_class=20")
    flat = write(tmp_path / "flat.npz", clusters(LABELS), None, [])
    with pytest.raises(InputError, match=r"flat.npz has no labels"):
        probed(composed, str(flat))
    with pytest.raises(InputError, match=r"flat.npz has no labels"):
        probed(composed, f"[{good},{flat}]")
    for name, values, labels, classes in (
        ("fewer.npz", clusters(LABELS[:57]), LABELS[:57], CLASSES),
        ("labels.npz", clusters(LABELS), LABELS[::-1].copy(), CLASSES),
        ("classes.npz", clusters(LABELS), LABELS, ["x", "y", "z"]),
    ):
        other = write(tmp_path / name, values, labels, classes)
        with pytest.raises(InputError, match=f"{name} is not of the same images as .*a.npz"):
            probed(composed, f"[{good},{other}]")
    one = write(tmp_path / "one.npz", clusters(LABELS), np.zeros_like(LABELS), ["ant"])
    with pytest.raises(InputError, match="one class only: ant"):
        probed(composed, str(one))
    for setting in ("train_per_class=1", "test_per_class=0", "splits=0", "constants=[0]"):
        with pytest.raises(InputError, match=setting.partition("=")[0]):
            probed(composed, str(good), setting)
    assert not (tmp_path / "run").exists()
