"""Lightning's callbacks, so that a run with them resumes exactly."""

import re
from pathlib import Path
from string import Formatter
from typing import Annotated, Any

from annotated_types import Ge
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from vgglab.errors import InputError
from vgglab.reporting.history import CSVHistory
from vgglab.reporting.tensorboard import TensorBoard
from vgglab.training.checkpointing import CheckpointWriter, copy_checkpoint, reaches


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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})
        exhausted = self.stopping_reason is EarlyStoppingReason.PATIENCE_EXHAUSTED
        if exhausted and self.wait_count < self.patience:  # which was raised on resume
            self.stopping_reason = EarlyStoppingReason.NOT_STOPPED

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stopping_reason is not EarlyStoppingReason.NOT_STOPPED:
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
        list(Formatter().parse(self.filename or ""))  # a ValueError now, not at the first save
        if self.save_top_k not in (0, 1) and "{" not in (self.filename or "{"):
            raise InputError(
                f"save_top_k={self.save_top_k} files cannot all be called {self.filename}; "
                f"try filename='{self.filename}-{{epoch}}'"
            )
        self.keep = keep
        self._within_epoch = False

    @property
    def state_key(self) -> str:
        return f"{super().state_key}{self.filename}"  # several may have the same trigger

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning forgets the best score when the run's folder has moved, and would then write a
        # worse checkpoint over the best one.
        folder = Path(self.dirpath or "")
        best = state_dict["best_model_path"]
        if best and not Path(_moved(best, folder)).is_file():
            return  # it is gone, or another run's: the next one is the best
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state_dict[name] = _moved(state_dict[name], folder)
        scores = state_dict["best_k_models"].items()
        state_dict["best_k_models"] = {_moved(path, folder): score for path, score in scores}
        state_dict["dirpath"] = self.dirpath
        super().load_state_dict(state_dict)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write what a kill left out: of the checkpoints of one step those that come later."""
        if trainer.state.fn != "fit" or not trainer.is_global_zero or not self._is_due(checkpoint):
            return
        step = {"epoch": checkpoint["epoch"], "step": checkpoint["global_step"]}
        path = Path(self.format_checkpoint_name(step))
        if not reaches(path, step["step"]):
            copy_checkpoint(Path(str(trainer.ckpt_path)), path, self.keep)

    def _is_due(self, checkpoint: dict[str, Any]) -> bool:
        named_by_metrics = re.search(r"\{(?!epoch|step)", self.filename or "{")
        if self.monitor is not None or self.save_weights_only or named_by_metrics:
            return False
        every = self._every_n_train_steps
        if every and checkpoint["global_step"] % every == 0:
            return True
        epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        at_its_end = epochs == checkpoint["epoch"] + 1
        if every:
            return at_its_end and self._is_latest
        return bool(at_its_end and self._every_n_epochs and epochs % self._every_n_epochs == 0)

    @property
    def follows(self) -> bool:
        """Whether its file is the run's latest state, whenever it is written."""
        return self.monitor is None and self.save_top_k == 1 and not self.save_weights_only

    @property
    def _is_latest(self) -> bool:
        """Whether this is about the run's latest state: of steps, also at an epoch's end."""
        return self.monitor is None and self.save_top_k == 1 and self._every_n_train_steps > 0

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        if self._within_epoch:  # Lightning logs a step after its callbacks
            trainer._logger_connector.update_train_step_metrics()
        # A resumed run keeps the history before its checkpoint, so that must be on the disk first.
        for logger in trainer.loggers:
            if isinstance(logger, CSVHistory | TensorBoard):
                logger.flush()
        options = {"keep": self.keep}
        trainer.save_checkpoint(filepath, self.save_weights_only, storage_options=options)
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(self)

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
            self._within_epoch = True
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self._save_before_the_end(trainer)
            self._within_epoch = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (self.monitor or "").startswith("val/") and not pl_module.validated:
            return  # the score is an earlier epoch's
        # What was held back at the last batch.
        super().on_train_batch_end(trainer, pl_module, None, None, 0)
        if self._is_latest and not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        super().on_train_epoch_end(trainer, pl_module)
        self._save_before_the_end(trainer)

    def _save_before_the_end(self, trainer: Trainer) -> None:
        """Of a run that was told to stop (vgglab.cluster.preemption), where it stops."""
        stops = trainer.received_sigterm and self.follows
        if stops and not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


def _moved(path: str, folder: Path) -> str:
    return str(folder / Path(path).name) if path else path
