"""Precision against recall, class by class, from counts at fixed thresholds."""

from typing import Annotated, Any

import torch
from annotated_types import Ge
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from vgglab.dashboard.drawing import is_due, step_of
from vgglab.data.attached import datamodule
from vgglab.reporting.tensorboard import boards

# TensorBoard takes at most 127, and takes them to be evenly spaced from 0 to 1.
THRESHOLDS = 101


class PrecisionRecall(Callback):
    """Draws each class's precision-recall curve, of the test set and now and then of validation.

    A class without images has no curve. With more classes than `max_classes` there are none.

    Args:
        max_classes: TensorBoard draws a chart a class.
        every_n_epochs: from one validation's curves to the next's, and after the last. None: the
            test's alone.
    """

    def __init__(
        self,
        max_classes: Annotated[int, Ge(2)] = 20,
        every_n_epochs: Annotated[int, Ge(1)] | None = 10,
    ) -> None:
        self.max_classes = max_classes
        self.every_n_epochs = every_n_epochs
        self._counts: ThresholdCounts | None = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._counts = None
        if self.every_n_epochs and is_due(trainer, self.every_n_epochs):
            self._begin(trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._counts = None
        self._begin(trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *rest: Any
    ) -> None:
        if self._counts is not None:
            self._counts.update(outputs["logits"], outputs["labels"])

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *rest: Any
    ) -> None:
        self.on_validation_batch_end(trainer, pl_module, outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, "val", step_of(trainer))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, "test", trainer.global_step)

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classes = len(datamodule(trainer).classes)
        if boards(trainer) and classes <= self.max_classes:
            self._counts = ThresholdCounts(classes).to(pl_module.device)

    def _draw(self, trainer: Trainer, split: str, step: int) -> None:
        if self._counts is None:
            return
        counts = self._counts.compute().cpu()  # of all processes, which all must ask
        if not trainer.is_global_zero:
            return
        for name, (right, wrong) in zip(datamodule(trainer).classes, counts, strict=True):
            if right[0] == 0:
                continue
            curve = {
                "true_positive_counts": right,
                "false_positive_counts": wrong,
                "true_negative_counts": wrong[0] - wrong,
                "false_negative_counts": right[0] - right,
                "precision": right / (right + wrong).clamp(min=1),
                "recall": right / right[0],
            }
            for board in boards(trainer):
                board.experiment.add_pr_curve_raw(
                    f"pr_{split}/{name}", **curve, global_step=step, num_thresholds=THRESHOLDS
                )


class ThresholdCounts(Metric):
    """How many images reach each threshold of a class's probability: its own and the others'.

    torchmetrics' MulticlassPrecisionRecallCurve counts the same, but under
    `trainer=deterministic` through a table of gigabytes a batch (its `_bincount`).
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        zeros = torch.zeros(num_classes, 2, THRESHOLDS, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count one batch: logits (N, C), labels (N,)."""
        classes = torch.arange(len(self.counts), device=labels.device)
        reached = (logits.float().softmax(1) * (THRESHOLDS - 1)).long().clamp_(0, THRESHOLDS - 1)
        other = (labels[:, None] != classes).long()
        place = ((classes * 2 + other) * THRESHOLDS + reached).flatten()
        self.counts.view(-1).scatter_add_(0, place, torch.ones_like(place))

    def compute(self) -> Tensor:
        """(C, 2, THRESHOLDS) int64: images of the class and of others, with a probability of at
        least i / (THRESHOLDS - 1)."""
        return self.counts.flip(-1).cumsum(-1).flip(-1)
