"""What is drawn during training: the same images all run long, and training undisturbed."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from vgglab.cluster.strategies import Sharded
from vgglab.data import ImageDataModule
from vgglab.errors import InputError

log = logging.getLogger(__name__)


@contextmanager
def dispensable(tag: str) -> Iterator[None]:
    """A block that draws: where it fails, a line says why, and training of days goes on.

    What a configuration or the disk does wrong ends the run, as elsewhere. A collective does not
    belong in here: the other processes would wait for this one.
    """
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - networks and images bring about anything
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        log.warning("no %s in TensorBoard: %s", tag, reason)


def datamodule(trainer: Trainer) -> ImageDataModule:
    """The run's data."""
    data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
    return data


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
    indices = [int((images.labels == label).nonzero()[0]) for label in labels]
    pixels = [data.preprocessing.fit(images.image(index)) for index in indices]
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
    """Whether this epoch of training is one of every so many, or the run's last.

    At an epoch's end and not at the run's, so that it is before the checkpoint: what comes after
    the last one is lost where a run is killed.
    """
    epochs, steps = trainer.current_epoch + 1, trainer.max_steps
    is_last = epochs == trainer.max_epochs or 0 < steps <= trainer.global_step
    due = epochs % every_n_epochs == 0 or is_last or trainer.should_stop
    return due and not trainer.sanity_checking


def step_of(trainer: Trainer) -> int:
    """The optimiser's last step, counted from 0: a run that resumes after it draws it no more."""
    return max(trainer.global_step - 1, 0)
