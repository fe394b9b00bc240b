"""What happens beside the training steps: statistics, pictures, progress."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    ProgressBar,
    RichProgressBar,
)
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from vgglab.data import ImageDataModule
from vgglab.files import replace_file
from vgglab.reporting.history import CSVHistory
from vgglab.reporting.tensorboard import TensorBoard, confusion_figure, image_grid
from vgglab.training.checkpointing import CheckpointWriter


class StepStatistics(Callback):
    """Logs `lr` and `throughput/images_per_second`, over all devices, at the logging cadence.

    Validation and checkpoints do not count: the clock runs over training steps alone.
    """

    def __init__(self) -> None:
        self._images = 0
        self._seconds = 0.0
        self._mark: float | None = None
        self._lr = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Read before the step: afterwards the schedule has moved on.
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
    ) -> None:
        now = time.perf_counter()
        if self._mark is not None:
            self._images += len(batch[0]) * trainer.world_size
            self._seconds += now - self._mark
        self._mark = now
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            statistics = {"lr": self._lr}
            if self._seconds:
                statistics["throughput/images_per_second"] = self._images / self._seconds
            pl_module.log_dict(statistics)
            self._images, self._seconds = 0, 0.0


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
        if trainer.global_step > 0:
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


class MovingAverage(EMAWeightAveraging):
    """Validates, saves and tests an exponential moving average of the weights.

    Lightning's own callback would put the raw weights of a checkpoint back before a test.
    """

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == "fit":
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


class EarlyStopping(LightningEarlyStopping):
    """Lightning's, but a run that has stopped stays stopped when it is resumed."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stopped_epoch:
            trainer.should_stop = True


class Checkpoint(ModelCheckpoint):
    """Lightning's, but only where a run can continue exactly: after an optimiser's step, and at the
    end of an epoch after the validation.

    A checkpoint from before the validation resumes without it, and so without the best score, the
    plateau schedule's step and a row of the history.

    Args:
        keep: predecessors of a file that stay beside it: `last-1.ckpt` is the one before.
        settings: of Lightning's ModelCheckpoint.
    """

    def __init__(self, *, keep: Annotated[int, Ge(0)] = 0, **settings: Any) -> None:
        super().__init__(**settings)
        self.keep = keep

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning forgets the best score when the run's folder has moved, and would then write a
        # worse checkpoint over the best one.
        folder = Path(self.dirpath or "")
        best = state_dict["best_model_path"]
        if not best or Path(_moved(best, folder)).is_file():
            for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
                state_dict[name] = _moved(state_dict[name], folder)
            scores = state_dict["best_k_models"].items()
            state_dict["best_k_models"] = {_moved(path, folder): score for path, score in scores}
            state_dict["dirpath"] = self.dirpath
        super().load_state_dict(state_dict)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        # A resumed run keeps the history before its checkpoint, so that must be on the disk first.
        for logger in trainer.loggers:
            if isinstance(logger, CSVHistory | TensorBoard):
                logger.flush()
        options = {"keep": self.keep}
        trainer.save_checkpoint(filepath, self.save_weights_only, storage_options=options)
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        writer = trainer.strategy.checkpoint_io
        if isinstance(writer, CheckpointWriter):
            writer.raise_if_failed()
        # A step's first half, its accumulated gradients, is in no checkpoint.
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and not trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_batch_end(trainer, pl_module, None, None, 0)
        super().on_train_epoch_end(trainer, pl_module)


def _moved(path: str, folder: Path) -> str:
    return str(folder / Path(path).name) if path else path


def boards(trainer: Trainer) -> list[TensorBoard]:
    """The run's TensorBoard loggers."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoard)]


class PlainProgress(ProgressBar):
    """One line an epoch and, in long epochs, one a minute: for files and batch systems.

    Args:
        every_seconds: the most time without a line.
    """

    def __init__(self, every_seconds: float = 60.0) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self._printed = time.monotonic()
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if time.monotonic() - self._printed > self.every_seconds:
            self._print(trainer, f"batch {batch_idx + 1}/{self.total_train_batches}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print(trainer, f"step {trainer.global_step}")

    def _print(self, trainer: Trainer, position: str) -> None:
        self._printed = time.monotonic()
        if not self._enabled:
            return
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        parts = [f"epoch {trainer.current_epoch + 1}/{epochs}", position]
        shown = ("train/loss", "val/loss", "val/top1", "throughput/images_per_second")
        for name in shown:
            if name in trainer.callback_metrics:
                value = float(trainer.callback_metrics[name])
                parts.append(f"{name} {value:.4f}" if value < 100 else f"{name} {value:,.0f}")
        print("  ".join(parts), flush=True)


def progress(refresh_rate: int = 10) -> Callback:
    """Rich's bars on a terminal, plain lines in a file, which bars would flood.

    Args:
        refresh_rate: batches between two updates of the bar.
    """
    if sys.stdout.isatty():
        return RichProgressBar(refresh_rate=refresh_rate, leave=True)
    return PlainProgress()
