"""Test images as the last layer gets them: points that TensorBoard's projector lays out."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Interval
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed import all_gather_object
from torch.nn.modules.module import register_module_forward_pre_hook
from torchvision.utils import make_grid

from vgglab.dashboard.drawing import dispensable
from vgglab.data.attached import datamodule
from vgglab.files import replace_file
from vgglab.reporting.pixels import png, thumbnail
from vgglab.reporting.tensorboard import boards

log = logging.getLogger(__name__)

_THUMBNAIL = 64  # pixels of the longer side, at most
_COLUMNS = 128  # of 64 pixels: 8192, the most that TensorBoard's projector takes
_CONFIG = """\
embeddings {{
  tensor_name: "penultimate features of test images"
  tensor_path: "projector/features.tsv"
  metadata_path: "projector/metadata.tsv"
  tensor_shape: [{}, {}]
  sprite {{
    image_path: "projector/sprite.png"
    single_image_dim: [{}, {}]
  }}
}}
"""


@dataclass(frozen=True)
class Point:
    """One test image."""

    index: int
    """In the test set."""
    label: int
    predicted: int
    probability: float
    """Of the predicted class, 0 to 1."""
    features: Tensor
    """(D,) float32."""
    thumbnail: Tensor
    """(3, h, w) uint8."""


class Projector(Callback):
    """Writes the inputs of the network's last dense layer for some test images, after the test.

    They are the first images of each class, and those of all processes together. A later test of
    the same run takes the place of the earlier one.

    Args:
        count: images.
    """

    def __init__(self, count: Annotated[int, Interval(ge=3, le=_COLUMNS**2)] = 500) -> None:
        self.count = count
        self._chosen: set[int] = set()
        self._points: list[Point] = []
        self._listening = ExitStack()
        self._inputs: list[Tensor] = []

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._points, self._chosen = [], set()
        if boards(trainer):
            labels = datamodule(trainer).sets["test"].labels
            self._chosen = set(first_of_each_class(labels, self.count).tolist())

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, *rest: int
    ) -> None:
        if not self._chosen.isdisjoint(_indices(trainer)):
            self._inputs = self._listening.enter_context(inputs_of_dense_layers())

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        *rest: int,
    ) -> None:
        self._listening.close()
        indices = _indices(trainer)
        rows = [row for row, index in enumerate(indices) if index in self._chosen]
        if not rows:
            return
        # One that runs at each position of a map is given more vectors than there are images.
        if not self._inputs or len(self._inputs[-1]) != len(indices):
            if trainer.is_global_zero:
                log.warning("no projector: no dense layer is given a vector an image")
            self._chosen = set()
            return
        images = datamodule(trainer).preprocessing.denormalize(batch[0][rows])
        confidence = outputs["logits"][rows].float().softmax(1).max(1)
        self._points += map(
            Point,
            [indices[row] for row in rows],
            outputs["labels"][rows].tolist(),
            confidence.indices.tolist(),
            confidence.values.tolist(),
            self._inputs[-1].flatten(1)[rows].float().cpu(),
            thumbnail(images, _THUMBNAIL).cpu(),
        )

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._listening.close()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        points, self._points = self._points, []
        if trainer.world_size > 1 and boards(trainer):
            parts: list[list[Point]] = [[]] * trainer.world_size
            all_gather_object(parts, points)
            points = [point for part in parts for point in part]
        if not points or not trainer.is_global_zero:
            return
        points.sort(key=lambda point: point.index)
        with dispensable("projector"):
            for board in boards(trainer):
                _write(Path(board.log_dir), points, datamodule(trainer).classes)


def first_of_each_class(labels: Tensor, count: int) -> Tensor:
    """The indices of `count` images: the first of each class, then the second ones, and so on.

    Args:
        labels: (N,) int64.

    Returns:
        At most `count` indices, ascending.
    """
    order = labels.argsort(stable=True)
    sizes = labels.bincount()
    turn = torch.empty_like(labels)
    turn[order] = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[order]]
    return (turn * len(sizes) + labels).argsort()[:count].sort().values


def _indices(trainer: Trainer) -> list[int]:
    """Those of the batch's images in the test set, in this process."""
    indices: list[int] = trainer.test_dataloaders.indices  # type: ignore[union-attr]
    return indices


@contextmanager
def inputs_of_dense_layers() -> Iterator[list[Tensor]]:
    """Yields a list: its last tensor is what the last dense layer that has run was given.

    Of any network. Compiled ones run as they are written meanwhile: torch.compile would leave out
    the hook.
    """
    inputs: list[Tensor] = []

    def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.Linear):
            inputs[:] = arguments[:1]

    # One for all modules: which network runs, a strategy may decide (Sharded's whole copy).
    handle = register_module_forward_pre_hook(hook)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield inputs
    finally:
        handle.remove()


def _write(folder: Path, points: Sequence[Point], classes: Sequence[str]) -> None:
    """`projector_config.pbtxt` and what it names, in place of an earlier test's.

    `SummaryWriter.add_embedding` would add to the earlier ones, and write a folder a step.
    """
    inside = folder / "projector"
    inside.mkdir(parents=True, exist_ok=True)
    features = torch.stack([point.features for point in points])
    form = "\t".join(["%.4g"] * features.shape[1]) + "\n"
    table = "".join(form % tuple(row) for row in features.tolist())
    replace_file(inside / "features.tsv", table.encode())
    lines = [("true", "predicted", "correct", "probability", "index")]
    names = [" ".join(name.split()) for name in classes]
    for point in points:
        correct = "yes" if point.predicted == point.label else "no"
        row = (names[point.label], names[point.predicted], correct)
        lines.append((*row, f"{point.probability:.4f}", str(point.index)))
    text = "".join("\t".join(line) + "\n" for line in lines)
    replace_file(inside / "metadata.tsv", text.encode())
    thumbnails = torch.stack([point.thumbnail for point in points])
    height, width = thumbnails.shape[-2:]
    # As many rows as columns: TensorBoard finds an image's row by dividing by the number of rows.
    side = math.ceil(len(points) ** 0.5)
    empty = thumbnails.new_zeros(side * side - len(points), 3, height, width)
    sprite = make_grid(torch.cat([thumbnails, empty]), nrow=side, padding=0)
    replace_file(inside / "sprite.png", png(sprite))

    config = _CONFIG.format(*features.shape, width, height)
    replace_file(folder / "projector_config.pbtxt", config.encode())
