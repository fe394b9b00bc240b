"""Callbacks that break a process of a run, for `callbacks.broken._target_`."""

import tempfile
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from tests.faults.disk import Disk, Fault


class Sleeps(Callback):
    """One process does not come back from its third batch of the second epoch."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.global_rank, trainer.current_epoch, batch_idx) == (self.rank, 1, 2):
            time.sleep(1000)


class FullDisk(Callback):
    """The disk of the process that writes is full from its second epoch's checkpoint on."""

    def __init__(self, run_dir: str) -> None:
        self.run_dir = Path(run_dir).resolve()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and trainer.current_epoch == 1:
            trainer.strategy.checkpoint_io.teardown()  # what is still being written
            fault = Fault("full", "write", "checkpoint", 1, "within", 0)
            Disk(self.run_dir, Path(tempfile.mkdtemp()), fault).install()
