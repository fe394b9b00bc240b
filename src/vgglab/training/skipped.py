"""What `data.on_error=skip` passed over is counted once, and listed in the run's folder."""

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch.distributed import all_gather_object

from vgglab.data.attached import datamodule
from vgglab.errors import InputError
from vgglab.files import shown
from vgglab.reporting.record import SKIPPED, read_skipped
from vgglab.reporting.skipped import counted, write_skipped
from vgglab.text import printable

log = logging.getLogger(__name__)


class SkippedImages(Callback):
    """Keeps `skipped.json`: the images that no process of the run could read.

    The processes tell each other when an epoch or a validation ends and before a checkpoint is
    written: what a resumed run will not meet again is in the file. Where a run fails the first
    process adds what it has found by itself.

    Args:
        run_dir: the run's folder. What its file lists already, of an earlier attempt, stays.

    Attributes:
        lines: what this process knows, in the first one of all processes: each image's name with
            the reason, once.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.run_dir = Path(run_dir)
        self.lines: dict[str, None] = {}
        self._earlier = 0  # lines of earlier attempts
        self._told = False
        self._evaluated = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            self.lines = dict.fromkeys(read_skipped(self.run_dir))
            self._earlier = len(self.lines)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluated = 0

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._evaluated += len(batch[1])

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:  # which sees a few images only
            self._end_evaluation(trainer, "validation")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_evaluation(trainer, "test")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._gather(trainer)
        if trainer.is_global_zero and len(self.lines) > self._earlier and not self._told:
            self._told = True
            where = shown(self.run_dir / SKIPPED)
            log.warning("%s (data.on_error=skip); %s lists them", counted(len(self.lines)), where)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._gather(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if trainer.is_global_zero:
            with suppress(OSError):  # what went wrong before must not be hidden
                self._add(trainer, self._new(trainer))

    def _end_evaluation(self, trainer: Trainer, what: str) -> None:
        if self._gather(trainer) == 0:
            raise InputError(f"none of the {what} images can be read (data.on_error=skip)")

    def _gather(self, trainer: Trainer) -> int:
        """Exchange what was found, in which all processes must take part.

        Returns:
            How many images they have evaluated together in this validation or test.
        """
        own = (self._new(trainer), self._evaluated)
        parts = [own] * trainer.world_size
        if trainer.world_size > 1:
            all_gather_object(parts, own)
        self._add(trainer, [line for lines, _ in parts for line in lines])
        return sum(evaluated for _, evaluated in parts)

    def _new(self, trainer: Trainer) -> list[str]:
        """What this process has skipped since it was asked last."""
        loaders = (trainer.train_dataloader, trainer.val_dataloaders, trainer.test_dataloaders)
        sources = (*loaders, *datamodule(trainer).sets.values())  # of some, sets kept in memory
        found = (printable(line) for source in sources for line in getattr(source, "skipped", ()))
        return [line for line in dict.fromkeys(found) if line not in self.lines]

    def _add(self, trainer: Trainer, lines: list[str]) -> None:
        self.lines.update(dict.fromkeys(lines))
        if lines and trainer.is_global_zero:
            write_skipped(self.run_dir, sorted(self.lines))
