"""How far a run is and how fast it goes: curves, bars on a terminal, lines in a file."""

import sys
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from torch import Tensor


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
