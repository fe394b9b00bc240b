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
from vgglab.errors import BrokenImageError, InputError

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


class Examples(NamedTuple):
    """Validation images of different classes."""

    images: Tensor
    """(N, C, H, W) uint8, as the network is given them, on the CPU."""
    labels: Tensor
    """(N,) int64, ascending."""


def examples(data: ImageDataModule, count: int) -> Examples:
    """The first validation image of each class; of many classes `count`, evenly spread.

    With `data.on_error=skip` it is the first that can be read, and a class without any is left out.

    Raises:
        InputError: an image cannot be read, or with `skip` none of them.
    """
    labels = torch.unique(data.sets["val"].labels)
    spread = torch.arange(min(count, len(labels))) * len(labels) // min(count, len(labels))
    found = [
        (image, label) for label in labels[spread] if (image := _first_of(data, label)) is not None
    ]
    if not found:
        raise InputError("none of the validation images can be read (data.on_error=skip)")
    images, shown = zip(*found, strict=True)
    return Examples(torch.stack(images), torch.stack(shown))


def _first_of(data: ImageDataModule, label: Tensor) -> Tensor | None:
    """As the network is given it; None where a broken one is to be skipped and all are."""
    images = data.sets["val"]
    for index in (images.labels == label).nonzero()[:, 0].tolist():
        try:
            return data.preprocessing.fit(images.image(index))
        except BrokenImageError:
            if data.on_error == "raise":
                raise
    return None


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
