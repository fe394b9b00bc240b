"""scripts/linear_probe.py: a linear SVM on features, by the rules of the paper's appendix B."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.table import Table
from sklearn.metrics import balanced_accuracy_score
from sklearn.svm import LinearSVC

from vgglab.config.jobs import LinearProbeConfig
from vgglab.errors import InputError
from vgglab.features.files import Features, Labels, read_features
from vgglab.progress import each
from vgglab.reporting.environment import open_run_folder, write_json
from vgglab.reporting.terminal import console

Indices = npt.NDArray[np.int64]

_HELD_OUT = 0.2  # of the training images, to choose the SVM's constant (appendix B)
_ITERATIONS = 10_000  # scikit-learn's 1,000 are too few for large constants
_ROWS = 4096  # scored at a time


class Split(NamedTuple):
    """Indices of images, each in one part at most; all classes in every part."""

    fit: Indices
    held_out: Indices
    """Training images that choose the SVM's constant."""
    test: Indices


class Score(NamedTuple):
    """What one split gave; recalls from 0 to 1."""

    constant: float
    held_out_recall: float
    recall: float


def linear_probe(job: LinearProbeConfig) -> dict[str, Any]:
    """Print the mean class recall over the splits and write it to `metrics.json`.

    Raises:
        InputError: the files cannot be read, have no labels, are not of the same images, or have
            too few of a class.
    """
    files = [read_features(Path(path)) for path in job.features]
    labels = _common_labels(files, job.features)
    splits = [
        draw_split(
            labels,
            files[0].classes,
            train_per_class=job.train_per_class,
            test_per_class=job.test_per_class,
            seed=(job.seed, number),
        )
        for number in range(job.splits)
    ]
    scores = [
        probe(files, labels, split, job.constants, seed=job.seed)
        for split in each(splits, "linear probe", unit="splits")
    ]
    recalls = [score.recall for score in scores]
    result = {
        "test/mean_class_recall": float(np.mean(recalls)),
        # Of a sample; one split has none.
        "test/mean_class_recall_std": float(np.std(recalls, ddof=1)) if job.splits > 1 else None,
        "splits": [score._asdict() for score in scores],
    }
    folder = Path(job.run_dir)
    open_run_folder(folder, job.composition)
    write_json(folder / "metrics.json", result)
    if job.format == "json":
        print(json.dumps(result, indent=2))
    else:
        _print_table(result, scores, folder)
    return result


def draw_split(
    labels: Labels,
    classes: Sequence[str],
    *,
    train_per_class: int,
    test_per_class: int | None,
    seed: Sequence[int],
) -> Split:
    """Random training and test images of every class.

    Args:
        labels: (N,).
        classes: names, for messages.
        train_per_class: at least 2; a fifth of them, at least one, is held out.
        test_per_class: at most; None is all that are not for training.
        seed: the same numbers, the same split.

    Raises:
        InputError: a class has no image left to test on.
    """
    generator = np.random.default_rng(seed)
    held_out = max(1, round(_HELD_OUT * train_per_class))
    parts: list[list[Indices]] = []
    for label, name in enumerate(classes):
        images = generator.permutation(np.flatnonzero(labels == label))
        if len(images) <= train_per_class:
            raise InputError(
                f"train_per_class={train_per_class} leaves no image of class {name} "
                f"to test on: it has {len(images)}"
            )
        train, rest = images[:train_per_class], images[train_per_class:]
        parts.append([train[held_out:], train[:held_out], rest[:test_per_class]])
    return Split(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def probe(
    files: Sequence[Features],
    labels: Labels,
    split: Split,
    constants: Sequence[float],
    *,
    seed: int = 0,
) -> Score:
    """Choose the constant on the held-out images, train on all training images, and test.

    Of constants that score the same the smallest is taken.

    Args:
        files: of the same images; their descriptors are stacked.
        labels: (N,).
        split: which images.
        constants: of the SVM, its C.
        seed: of the solver.
    """
    best, held_out_recall = constants[0], -1.0
    for constant in sorted(constants):
        machine = _fitted(files, labels, split.fit, constant, seed)
        found = _recall(machine, files, labels, split.held_out)
        if found > held_out_recall:
            best, held_out_recall = constant, found
    train = np.concatenate([split.fit, split.held_out])
    machine = _fitted(files, labels, train, best, seed)
    return Score(best, held_out_recall, _recall(machine, files, labels, split.test))


def _fitted(
    files: Sequence[Features], labels: Labels, rows: Indices, constant: float, seed: int
) -> LinearSVC:
    machine = LinearSVC(C=constant, dual="auto", max_iter=_ITERATIONS, random_state=seed)
    return machine.fit(_stacked(files, rows), labels[rows])


def _recall(machine: LinearSVC, files: Sequence[Features], labels: Labels, rows: Indices) -> float:
    """The mean of the classes' recalls, as each class counts the same however many its images."""
    starts = range(0, len(rows), _ROWS)
    found = [machine.predict(_stacked(files, rows[start : start + _ROWS])) for start in starts]
    return float(balanced_accuracy_score(labels[rows], np.concatenate(found)))


def _stacked(files: Sequence[Features], rows: Indices) -> npt.NDArray[np.float32]:
    stacked = np.hstack([file.values[rows] for file in files])
    finite = np.isfinite(stacked).all(axis=1)
    if not finite.all():
        image = files[0].paths[rows[finite.argmin()]]
        raise InputError(f"features: the descriptor of {image} is not finite")
    return stacked


def _common_labels(files: Sequence[Features], paths: Sequence[str]) -> Labels:
    labels = files[0].labels
    for file, path in zip(files, paths, strict=True):
        if labels is None or file.labels is None:
            raise InputError(f"features={path} has no labels: its images had no class folders")
        same_images = (file.paths, file.classes) == (files[0].paths, files[0].classes)
        if not (same_images and np.array_equal(file.labels, labels)):
            raise InputError(f"features: {path} is not of the same images as {paths[0]}")
    if len(files[0].classes) < 2:
        raise InputError(f"features={paths[0]} has one class only: {files[0].classes[0]}")
    assert labels is not None
    return labels


def _print_table(result: dict[str, Any], scores: Sequence[Score], folder: Path) -> None:
    table = Table("split", "C", "held-out recall", "test recall")
    for number, score in enumerate(scores):
        table.add_row(
            str(number),
            f"{score.constant:g}",
            f"{score.held_out_recall:.1%}",
            f"{score.recall:.1%}",
        )
    console.print(table)
    deviation = result["test/mean_class_recall_std"]
    spread = "" if deviation is None else f" ± {100 * deviation:.1f}"
    console.print(f"mean class recall {100 * result['test/mean_class_recall']:.1f}{spread} %")
    console.print(f"run folder  {folder}", soft_wrap=True)
