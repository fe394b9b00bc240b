"""Pictures that are drawn once: what the network is given, can see, and confuses."""

from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from vgglab.dashboard.drawing import dispensable, examples, step_of, whole_network
from vgglab.dashboard.tiles import Line, captioned, show
from vgglab.data import ImageDataModule
from vgglab.data.attached import datamodule
from vgglab.files import replace_file
from vgglab.networks import receptive_field
from vgglab.networks.effective_field import Box, central_box
from vgglab.networks.layers import evaluation_mode
from vgglab.reporting.confusion import confusion_figure
from vgglab.reporting.pixels import image_grid, rendered, thumbnail
from vgglab.reporting.record import Confusion
from vgglab.reporting.tensorboard import boards

_FRAME = (255, 127, 14)
_OUTSIDE = 0.3  # the brightness of what a unit does not see


class AugmentedImages(Callback):
    """Shows the first training batch in TensorBoard, as the network sees it.

    Args:
        count: images in the grid.
    """

    def __init__(self, count: Annotated[int, Ge(1)] = 64) -> None:
        self.count = count

    @rank_zero_only
    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
    ) -> None:
        if trainer.global_step > 0 or batch_idx > 0:
            return
        given = batch[0][: self.count]
        with dispensable("images/augmented"):
            images = datamodule(trainer).preprocessing.denormalize(given).cpu()
            show(image_grid(images), "images/augmented", 0, boards(trainer))


class ReceptiveField(Callback):
    """Shows what the central unit of the last layer of each resolution sees of a validation image.

    The fields are the theoretical ones; what lies outside of one is dark. A network whose fields
    are not known has none.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        onto = [board for board in boards(trainer) if board.begins]
        with whole_network(trainer, pl_module) as network:
            if not trainer.is_global_zero or not onto:
                return
            with dispensable("network/receptive_field"):
                picture = fields_picture(network, datamodule(trainer))
                show(picture, "network/receptive_field", step_of(trainer), onto)


def fields_picture(network: nn.Module, data: ImageDataModule) -> Tensor:
    """One tile a layer: (3, height, width) uint8.

    Raises:
        ValueError: the receptive fields are not known; see `vgglab.networks.receptive_field`.
    """
    last = {row.jump: row.name for row in receptive_field(network)}
    if not last:
        raise ValueError("the network has no convolution and no pool")
    image = examples(data, 1).images
    like = next(network.parameters())
    given = data.preprocessing.normalize(image.to(like.device)).to(like.dtype)
    shown = thumbnail(image[0])
    height, width = image.shape[-2:]
    scale = shown.shape[-1] / width
    tiles, captions = [], []
    with evaluation_mode(network):
        for name in last.values():
            box = central_box(network, given, name)
            tiles.append(_seen(shown, box, scale))
            sides = dict.fromkeys(
                f"{side:g}" for side in (box.bottom - box.top, box.right - box.left)
            )
            reaches = box.top <= 0 and box.left <= 0 and box.bottom >= height and box.right >= width
            field = Line(f"{' x '.join(sides)} pixels", "all of it" if reaches else "")
            captions.append([Line(name), field])
    return captioned(tiles, captions, columns=3)


def _seen(image: Tensor, box: Box, scale: float) -> Tensor:
    """The image, dark outside of the box, which has a frame."""
    height, width = image.shape[-2:]
    top, left, bottom, right = (round(edge * scale) for edge in box)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    within = (rows >= top + 2) & (rows < bottom - 2) & (columns >= left + 2) & (columns < right - 2)
    seen = torch.where(inside, image.float(), _OUTSIDE * image.float())
    return torch.where(inside & ~within, torch.tensor(_FRAME)[:, None, None], seen).byte()


class ConfusionMatrix(Callback):
    """Counts the test set's predictions by true class, for TensorBoard and `confusion.json`.

    Args:
        run_dir: the run's folder.
    """

    def __init__(self, run_dir: str) -> None:
        self.run_dir = Path(run_dir)
        self._counts: MulticlassConfusionMatrix | None = None

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classes = len(datamodule(trainer).classes)
        self._counts = MulticlassConfusionMatrix(classes).to(pl_module.device)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *rest: Any
    ) -> None:
        assert self._counts is not None
        self._counts.update(outputs["logits"], outputs["labels"])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._counts is not None
        matrix = self._counts.compute().cpu()
        if trainer.is_global_zero:
            classes = list(datamodule(trainer).classes)
            content = Confusion(classes=classes, matrix=matrix.tolist())
            replace_file(self.run_dir / "confusion.json", content.model_dump_json().encode())
            if onto := boards(trainer):
                with dispensable("test/confusion"):
                    picture = rendered(confusion_figure(matrix, classes))
                    show(picture, "test/confusion", trainer.global_step, onto)
