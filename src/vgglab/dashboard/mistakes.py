"""The images that a network takes for something else most surely."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from vgglab.dashboard.drawing import dispensable, is_due, step_of
from vgglab.dashboard.tiles import Line, answer_line, captioned, show
from vgglab.data.attached import datamodule
from vgglab.files import replace_file
from vgglab.reporting.pixels import png, thumbnail
from vgglab.reporting.record import Mistake, Mistakes
from vgglab.reporting.tensorboard import boards


@dataclass(frozen=True)
class Candidate:
    """One image of a set that is taken for something else."""

    probability: float
    """Of the predicted class."""
    true_probability: float
    true: int
    """The class, as a label."""
    predicted: int
    index: int
    """In the set."""


class Worst:
    """The most confident mistakes of one process, kept on its device: nothing waits for them.

    Args:
        count: how many.
        device: of the logits.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        # What is no mistake has the probability -1.
        self._probabilities = torch.full((count, 2), -1.0, device=device)
        self._numbers = torch.zeros(count, 3, dtype=torch.int64, device=device)

    def add(self, logits: Tensor, labels: Tensor, indices: Sequence[int]) -> None:
        """Count a batch.

        Args:
            logits: (N, C).
            labels: (N,) int64.
            indices: N, of the images in their set.
        """
        every = logits.detach().float().softmax(1)
        probability, predicted = every.max(1)
        # A number that is not finite is greater than none, and so no mistake.
        wrong = (predicted != labels) & (probability > 0)
        true_probability = every.gather(1, labels[:, None])[:, 0]
        where = torch.tensor(indices, dtype=torch.int64).to(labels.device, non_blocking=True)
        found = torch.stack([probability.where(wrong, -1), true_probability], 1)
        probabilities = torch.cat([self._probabilities, found])
        numbers = torch.cat([self._numbers, torch.stack([labels, predicted, where], 1)])
        # Stable: of equally confident ones those that came first stay.
        order = probabilities[:, 0].sort(descending=True, stable=True).indices
        kept = order[: len(self._numbers)]
        self._probabilities, self._numbers = probabilities[kept], numbers[kept]

    def of_all(self, trainer: Trainer) -> list[Candidate]:
        """Those of all processes together; all of them must ask."""
        gathered = [
            trainer.strategy.all_gather(part).reshape(-1, part.shape[1]).tolist()
            for part in (self._probabilities, self._numbers)
        ]
        found = [Candidate(*shares, *numbers) for shares, numbers in zip(*gathered, strict=True)]
        mistakes = sorted(
            (mistake for mistake in found if mistake.probability > 0),
            key=lambda mistake: (-mistake.probability, mistake.index),
        )
        return mistakes[: len(self._numbers)]


class WorstMistakes(Callback):
    """Shows the test set's most confident mistakes, and writes them into `mistakes.json`.

    Those of the validation set show on the way how they change. An image is shown as the network
    is given it.

    Args:
        run_dir: the run's folder.
        count: mistakes that are shown; of equally confident ones the first of the set.
        every_n_epochs: from one picture of the validation set to the next, and after the last.
    """

    def __init__(
        self,
        run_dir: str,
        count: Annotated[int, Ge(1), Le(32)] = 32,
        every_n_epochs: Annotated[int, Ge(1)] = 10,
    ) -> None:
        self.run_dir = Path(run_dir)
        self.count = count
        self.every_n_epochs = every_n_epochs
        self._worst: Worst | None = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        due = is_due(trainer, self.every_n_epochs)
        self._worst = Worst(self.count, pl_module.device) if due else None

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        *rest: int,
    ) -> None:
        self._add(trainer.val_dataloaders, outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._worst is not None:
            self._show(trainer, "val", self._worst.of_all(trainer), step_of(trainer))

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._worst = Worst(self.count, pl_module.device)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        *rest: int,
    ) -> None:
        self._add(trainer.test_dataloaders, outputs)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._worst is not None
        mistakes = self._worst.of_all(trainer)
        images = self._show(trainer, "test", mistakes, trainer.global_step)
        if not trainer.is_global_zero:
            return
        classes = datamodule(trainer).classes
        rows = [
            Mistake(
                true=classes[found.true],
                predicted=classes[found.predicted],
                probability=found.probability,
                true_probability=found.true_probability,
                index=found.index,
                image=base64.b64encode(png(image)),
            )
            for found, image in zip(mistakes, images, strict=True)
        ]
        content = Mistakes(mistakes=rows).model_dump_json()
        replace_file(self.run_dir / "mistakes.json", content.encode())

    def _add(self, loader: Any, outputs: Any) -> None:
        if self._worst is not None:
            self._worst.add(outputs["logits"], outputs["labels"], loader.indices)

    def _show(
        self, trainer: Trainer, split: str, mistakes: Sequence[Candidate], step: int
    ) -> list[Tensor]:
        """Draw them, in the first process; returns their images."""
        if not trainer.is_global_zero or not mistakes:
            return []
        data = datamodule(trainer)
        stored = data.sets[split]
        images = [
            thumbnail(data.preprocessing.fit(stored.image(mistake.index))) for mistake in mistakes
        ]
        captions = [
            [
                answer_line(data.classes[mistake.predicted], mistake.probability, is_right=False),
                Line(f"is {data.classes[mistake.true]}", f"{mistake.true_probability:.0%}"),
            ]
            for mistake in mistakes
        ]
        with dispensable(f"{split}/mistakes"):
            picture = captioned(images, captions, columns=4)
            show(picture, f"{split}/mistakes", step, boards(trainer))
        return images
