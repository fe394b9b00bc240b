"""What is drawn of, and what TensorBoard's pages show."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from torch import nn

from vgglab.data.images import TensorImages
from vgglab.data.transforms import Preprocessing


def tensors(run_dir: Path, prefix: str) -> dict[str, list[tuple[int, Any]]]:
    """By tag, the (step, array) of tags that begin so.

    (TensorBoard's older reader, `event_accumulator`, does not forget tensors on a resume.)
    """
    board = EventAccumulator(str(run_dir / "tensorboard"), {"tensors": 0})
    board.Reload()
    return {
        tag: [(event.step, make_ndarray(event.tensor_proto)) for event in board.Tensors(tag)]
        for tag in board.Tags()["tensors"]
        if tag.startswith(prefix)
    }


def data(channels: int = 3, size: int = 32, labels: str = "0123") -> Any:
    """As much of a data module as is drawn of: a validation image for each label."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(
        256, (len(labels), channels, size, size), generator=generator, dtype=torch.uint8
    )
    classes = [f"class {i}" for i in range(10)]
    half = (0.5,) * channels
    return SimpleNamespace(
        sets={"val": TensorImages(images, torch.tensor([int(i) for i in labels]), classes)},
        classes=classes,
        preprocessing=Preprocessing(half, half, (size, size)),
    )


class DenseLayers(nn.Sequential):
    """A network of 8 x 8 pixels that has nothing to see with."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))
