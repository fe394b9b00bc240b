"""The data that a Lightning trainer was given."""

from lightning import Trainer

from vgglab.data.module import ImageDataModule


def datamodule(trainer: Trainer) -> ImageDataModule:
    """The run's data."""
    data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
    return data
