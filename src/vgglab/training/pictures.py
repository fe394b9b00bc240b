"""Pictures for TensorBoard: what the network is given, and what it confuses."""

import json
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from vgglab.data import ImageDataModule
from vgglab.files import replace_file
from vgglab.reporting.tensorboard import boards, confusion_figure, image_grid


class AugmentedImages(Callback):
    """Shows the first training batch in TensorBoard, as the network sees it.

    Args:
        count: images in the grid.
    """

    def __init__(self, count: int = 64) -> None:
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
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        images = data.preprocessing.denormalize(batch[0][: self.count]).cpu()
        for board in boards(trainer):
            board.experiment.add_image("images/augmented", image_grid(images), 0)


class ConfusionMatrix(Callback):
    """Counts the test set's predictions by true class, for TensorBoard and `confusion.json`.

    Args:
        run_dir: the run's folder.
    """

    def __init__(self, run_dir: str) -> None:
        self.run_dir = Path(run_dir)
        self._counts: MulticlassConfusionMatrix | None = None

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classes = trainer.datamodule.classes  # type: ignore[attr-defined]
        self._counts = MulticlassConfusionMatrix(len(classes)).to(pl_module.device)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert self._counts is not None
        self._counts.update(outputs["logits"], outputs["labels"])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._counts is not None
        matrix = self._counts.compute().cpu()
        if trainer.is_global_zero:
            classes = list(trainer.datamodule.classes)  # type: ignore[attr-defined]
            content = {"classes": classes, "matrix": matrix.tolist()}
            replace_file(self.run_dir / "confusion.json", json.dumps(content).encode())
            for board in boards(trainer):
                figure = confusion_figure(matrix, classes)
                board.experiment.add_figure("test/confusion", figure, trainer.global_step)
