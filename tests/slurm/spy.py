"""A callback that tells what a process of a job does, and makes it slow, or fail."""

import json
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer


class Spy(Callback):
    """Writes a line into `rankN.jsonl` of the run's folder for each time that training starts.

    Args:
        seconds: that each step takes longer.
        failing_rank: the process that raises ArithmeticError at its second step.
    """

    def __init__(self, seconds: float = 0, failing_rank: int | None = None) -> None:
        self.seconds = seconds
        self.failing_rank = failing_rank

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        told = {
            "world_size": trainer.world_size,
            "step": trainer.global_step,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
        }
        path = Path(trainer.default_root_dir, f"rank{trainer.global_rank}.jsonl")
        with path.open("a") as file:
            file.write(f"{json.dumps(told)}\n")

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        time.sleep(self.seconds)
        if batch_idx == 1 and trainer.global_rank == self.failing_rank:
            raise ArithmeticError("the sum is wrong")
