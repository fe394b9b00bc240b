"""Precision against recall, checked against scikit-learn's."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_curve
from torch import Tensor

from tests.conftest import Compose
from tests.dashboard.shown import tensors
from tests.training.runs import job
from vgglab.dashboard.pr_curves import THRESHOLDS, PrecisionRecall, ThresholdCounts
from vgglab.reporting.tensorboard import TensorBoard
from vgglab.training.run import train

AT = torch.linspace(0, 1, THRESHOLDS)


def batches(classes: int) -> list[tuple[Tensor, Tensor]]:
    """Logits that know something of the labels, in batches of which the last is odd."""
    made = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (203,), generator=made)
    logits = 3 * torch.randn(203, classes, generator=made)
    logits[range(203), labels] += 2
    return list(zip(logits.split(64), labels.split(64), strict=True))


def counted(parts: list[tuple[Tensor, Tensor]], classes: int) -> Tensor:
    counts = ThresholdCounts(classes)
    for logits, labels in parts:
        counts.update(logits, labels)
    return counts.compute()


@pytest.mark.parametrize("classes", [2, 7])
def test_counts_are_those_behind_sklearns_curve(classes: int) -> None:
    parts = batches(classes)
    counts = counted(parts, classes).double().numpy()
    logits, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    for index, (right, wrong) in enumerate(counts):
        own = (labels == index).numpy()
        scores = logits.softmax(1)[:, index].numpy()
        precision, recall, thresholds = precision_recall_curve(own, scores)
        # sklearn's thresholds are the scores: the next one at or above ours has the same images.
        nearest = np.searchsorted(thresholds, AT.numpy())
        assert right / own.sum() == pytest.approx(recall[nearest])
        reached = right + wrong > 0
        assert (right / (right + wrong).clip(1))[reached] == pytest.approx(
            precision[nearest][reached]
        )


def test_what_processes_count_adds_up() -> None:
    parts = batches(5)
    first, second = ThresholdCounts(5), ThresholdCounts(5)
    for counts, of_process in ((first, parts[::2]), (second, parts[1::2])):
        for logits, labels in of_process:
            counts.update(logits, labels)
    first.dist_sync_fn = lambda own, group: [own, second.counts]
    first.distributed_available_fn = lambda: True
    assert torch.equal(first.compute(), counted(parts, 5))


def test_certain_and_spoilt_predictions_count_too() -> None:
    nan = float("nan")
    logits = torch.tensor([[1000.0, 0.0], [0.0, 1000.0], [nan, nan]])
    right, wrong = counted([(logits, torch.tensor([0, 0, 1]))], 2)[0]
    assert (right[0], wrong[0]) == (2, 1)
    assert right[-1] == 1


def test_a_run_draws_validation_at_its_cadence_and_the_test_once(
    composed: Compose, tmp_path: Path
) -> None:
    overrides = ("callbacks=[essential,pr_curves]", "trainer.max_epochs=3")
    every = "callbacks.pr_curves.every_n_epochs=2"
    train(job(composed, *overrides, every, "data.test_size=21", run_dir=tmp_path))
    found = tensors(tmp_path, "pr_")
    assert {tag.split("/")[0] for tag in found} == {"pr_val", "pr_test"}
    assert len(found) == 2 * 4
    images = {"pr_val": 20, "pr_test": 21}
    for split, steps in (("pr_val", [11, 17]), ("pr_test", [18])):
        own = np.zeros(len(steps))
        for tag, drawn in found.items():
            if not tag.startswith(split):
                continue
            assert [step for step, _ in drawn] == steps
            for at, (_, rows) in enumerate(drawn):
                right, wrong, others, missed, precision, recall = rows
                assert rows.shape == (6, THRESHOLDS)
                assert (right + wrong + others + missed == images[split]).all()
                assert recall == pytest.approx(right / (right + missed))
                assert precision == pytest.approx(right / (right + wrong).clip(1))
                assert (recall[0], precision[0]) == pytest.approx((1, right[0] / images[split]))
                own[at] += right[0]
        assert (own == images[split]).all()  # each image is of one class


@pytest.mark.parametrize(("classes", "drawn"), [(4, 4), (5, 0)])
def test_many_classes_have_no_curves(classes: int, drawn: int, tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(
        loggers=[TensorBoard(str(tmp_path))],
        is_global_zero=True,
        global_step=7,
        datamodule=SimpleNamespace(classes=[f"class {index}" for index in range(classes)]),
    )
    module: Any = SimpleNamespace(device=torch.device("cpu"))
    curves = PrecisionRecall(max_classes=4)
    curves.on_test_epoch_start(trainer, module)
    for logits, labels in batches(classes):
        curves.on_test_batch_end(trainer, module, {"logits": logits, "labels": labels}, None, 0)
    curves.on_test_epoch_end(trainer, module)
    trainer.loggers[0].finalize("success")
    assert len(tensors(tmp_path, "pr_")) == drawn
