"""How far a run is and how fast it goes: curves, a line an epoch, and what comes between."""

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from torch import Tensor

from vgglab.data.loading import ResumableLoader
from vgglab.progress import Work, shown
from vgglab.text import duration


class StepStatistics(Callback):
    """Logs `lr`, `throughput/images_per_second`, over all devices, and
    `throughput/data_wait_fraction`, of the first process, at the logging cadence.

    Validation and checkpoints do not count: the clock runs over training steps alone, and not over
    an epoch's first, which waits for the workers to start. The wait for data is the share of that
    time in which the loop stood still for the next batch: with `data.num_workers=0` that is the
    time it takes to make one, with workers what these are too slow by. What other callbacks and
    loggers do between two steps is no wait; nor is the copy to the device. (A loader that is not
    vgglab's does not tell.)
    """

    def __init__(self) -> None:
        self._images = 0
        self._seconds = 0.0
        self._waited = 0.0
        self._mark: tuple[float, float] | None = None
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
        loader = trainer.train_dataloader
        waited = loader.seconds_waited if isinstance(loader, ResumableLoader) else None
        now = time.perf_counter(), waited or 0.0
        if self._mark is not None:
            self._images += len(batch[0]) * trainer.world_size
            self._seconds += now[0] - self._mark[0]
            self._waited += now[1] - self._mark[1]
        self._mark = now
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            statistics = {"lr": self._lr}
            if self._seconds:
                statistics["throughput/images_per_second"] = self._images / self._seconds
                if waited is not None:
                    statistics["throughput/data_wait_fraction"] = self._waited / self._seconds
            pl_module.log_dict(statistics)
            self._images, self._seconds, self._waited = 0, 0.0, 0.0


class TrainingProgress(ProgressBar):
    """A line an epoch, and meanwhile how far the epoch, its validation or the test is.

    What Lightning's own bars show of a metric they fetch from the device at every step.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._work: Work | None = None
        self._shown = ExitStack()
        self._start = (0.0, 0)  # seconds, and steps done then

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = (time.monotonic(), trainer.global_step)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._work is None:
            self._begin(_epoch(trainer), self.total_train_batches, batch_idx)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._work is not None:
            self._work.advance(1)
            # When Lightning fetches it anyway: a GPU would be waited for.
            if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
                self._work.note = "".join(_metrics(trainer, ("train/loss",))).removeprefix("train/")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()
        if self._enabled:
            metrics = _metrics(trainer, ("train/loss", "val/loss", "val/top1"))
            print("  ".join([_epoch(trainer), *metrics, *self._time_left(trainer)]), flush=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *batch: Any
    ) -> None:
        if self._work is None:
            checks = trainer.sanity_checking
            batches = trainer.num_sanity_val_batches if checks else trainer.num_val_batches
            self._begin(f"{_epoch(trainer)}, validation", sum(batches))

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *batch: Any
    ) -> None:
        if self._work is not None:
            self._work.advance(1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *batch: Any
    ) -> None:
        if self._work is None:
            self._begin("test", sum(trainer.num_test_batches))

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        if self._work is not None:
            self._work.advance(1)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._end()

    def _begin(self, what: str, total: float, done: int = 0) -> None:
        if self._enabled:
            self._work = Work(what, int(total), done=done, unit="batches")
            self._shown.enter_context(shown(self._work))

    def _end(self) -> None:
        self._shown.close()
        self._work = None

    def _time_left(self, trainer: Trainer) -> list[str]:
        """Of all epochs, at the pace of this process so far, validation included."""
        since, before = self._start
        accumulated = trainer.accumulate_grad_batches
        limits = [trainer.max_steps] if trainer.max_steps > 0 else []
        if trainer.max_epochs is not None and trainer.max_epochs > 0:
            limits.append(trainer.max_epochs * math.ceil(self.total_train_batches / accumulated))
        left, done = min(limits) - trainer.global_step, trainer.global_step - before
        if left <= 0 or done <= 0:
            return []
        return [f"{duration(round((time.monotonic() - since) / done * left))} left"]


def _epoch(trainer: Trainer) -> str:
    of = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
    return f"epoch {trainer.current_epoch + 1}{of}"


def _metrics(trainer: Trainer, names: Sequence[str]) -> list[str]:
    found = trainer.callback_metrics
    return [f"{name} {float(found[name]):.4f}" for name in names if name in found]
