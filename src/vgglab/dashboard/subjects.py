"""What is drawn during training: the same images all run long, and training undisturbed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from vgglab.cluster.strategies import Sharded
from vgglab.data import ImageDataModule


class Examples(NamedTuple):
    """Validation images of different classes."""

    images: Tensor
    """(N, C, H, W) uint8, as the network is given them, on the CPU."""
    labels: Tensor
    """(N,) int64, ascending."""


def examples(data: ImageDataModule, count: int) -> Examples:
    """The first validation image of each class; of many classes `count`, evenly spread."""
    images = data.sets["val"]
    present = torch.unique(images.labels)
    spread = torch.arange(min(count, len(present))) * len(present) // min(count, len(present))
    labels = present[spread]
    places = [int((images.labels == label).nonzero()[0]) for label in labels]
    pixels = [data.preprocessing.fit(images.image(place)) for place in places]
    return Examples(torch.stack(pixels), labels)


@contextmanager
def whole_network(trainer: Trainer, pl_module: LightningModule) -> Iterator[nn.Module]:
    """The network on each device alone, so that one process may run it and the others wait.

    All processes must ask: where it lies in parts, they are gathered.
    """
    if isinstance(trainer.strategy, Sharded):
        with trainer.strategy.whole_network() as network:
            yield network
    else:
        yield pl_module.network  # type: ignore[misc]


def is_due(trainer: Trainer, every_n_epochs: int) -> bool:
    """Whether this epoch is one of every so many, or the run's last.

    At an epoch's end and not at the run's, so that it is before the checkpoint: what comes after
    the last one is lost where a run is killed.
    """
    epochs, steps = trainer.current_epoch + 1, trainer.max_steps
    is_last = epochs == trainer.max_epochs or 0 < steps <= trainer.global_step
    return epochs % every_n_epochs == 0 or is_last or trainer.should_stop


def step_of(trainer: Trainer) -> int:
    """The optimiser's last step, counted from 0: a run that resumes after it draws it no more."""
    return max(trainer.global_step - 1, 0)
