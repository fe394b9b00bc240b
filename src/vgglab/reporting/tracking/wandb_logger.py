"""Weights & Biases."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from vgglab.config.secrets import without_secrets
from vgglab.errors import InputError
from vgglab.extras import require
from vgglab.ranks import process_rank
from vgglab.reporting.tracking.kept import Kept, epoch_of, first_line, run_name


class WeightsAndBiases(WandbLogger):
    """Logs to Weights & Biases, or with `mode=offline` into `save_dir/wandb` for `wandb sync`.

    Args:
        save_dir: the run's folder. Its `wandb.json` keeps the id by which a resumed run continues
            the same one.
        project: in the account of `WANDB_ENTITY` or of the key.
        name: null is the last two parts of `save_dir`.
        group: runs that belong together.
        tags: to find it by.
        mode: null is `WANDB_MODE`, or online where that is not set.
        resume_step: optimiser steps already done by the run that this one continues; None for a
            new run.
        hyperparameters: plain containers without secrets, logged when the run begins.

    Raises:
        InputError: the package is missing, or nobody is logged in.
    """

    def __init__(
        self,
        save_dir: str,
        project: str = "vgglab",
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        resume_step: int | None = None,
        hyperparameters: dict[str, Any] | None = None,
    ) -> None:
        require("wandb", extra="wandb", what="logger=wandb")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        if not process_rank() and (mode or wandb.setup().settings.mode) == "online":
            # Before anything is written; where somebody sits there, it asks for the key.
            with _as_bad_input():
                wandb.login()
        self._kept = Kept(save_dir, "wandb", resume_step)
        self._hyperparameters = hyperparameters or {}
        super().__init__(
            name=name or run_name(save_dir),
            save_dir=save_dir,
            version=self._kept.run_id,
            project=project,
            group=group,
            tags=tags,
            mode=mode,
            # Bars would fill its log, and the run prints its own result.
            settings=wandb.Settings(console="off", quiet=True),
        )
        del self._wandb_init["anonymous"]  # of which W&B would say that it is no more

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; the first call begins it."""
        if self._experiment is None:
            with _as_bad_input(), _command_without_secrets():
                begun = super().experiment
            self._kept.write(begun.id)
            self.log_hyperparams(self._hyperparameters)
            if begun.offline:
                # Every process has a folder of its own, and the one that is sent last replaces
                # the others (wandb/wandb issue 3841): each must hold the whole history.
                for row in self._kept.start_over():
                    step = int(row.pop("step", 0))
                    super().log_metrics(row, step)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log what was not logged before: W&B would keep both."""
        self.experiment  # noqa: B018 - it knows what was, once it has begun
        if fresh := self._kept.fresh(metrics, step):
            super().log_metrics(fresh | epoch_of(metrics), step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        # Lightning says "success" after training, and the test is still to come.
        if status != "success":
            self.finish(exit_code=1)

    @rank_zero_only
    def finish(self, exit_code: int = 0) -> None:
        """End the W&B run, which waits until everything is sent."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=exit_code)


@contextmanager
def _as_bad_input() -> Iterator[None]:
    import wandb

    try:
        yield
    except wandb.Error as error:
        raise InputError(
            f"logger=wandb: {first_line(error)} (logger.wandb.mode=offline needs no account)"
        ) from error


@contextmanager
def _command_without_secrets() -> Iterator[None]:
    """W&B notes the command line."""
    whole = sys.argv
    sys.argv = without_secrets(whole)
    try:
        yield
    finally:
        sys.argv = whole
