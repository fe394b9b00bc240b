"""Numbers that go wrong: a run stops before they reach the weights, and its batch can be replayed.

The norm of all gradients and the loss together screen a batch: one number, read once a batch, which
on a GPU is one synchronisation. Only where it is not finite is anything looked at closely.
"""

import logging
import math
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from annotated_types import Ge
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor
from torch.distributed import ReduceOp, all_gather_object, all_reduce
from torch.optim import Optimizer

from vgglab.cluster.sharding import gathered
from vgglab.errors import InputError
from vgglab.training.bad_batch import BadBatch, gradients_of, is_finite, write_bad_batch
from vgglab.training.classifier import Classifier
from vgglab.training.optim import local_part

log = logging.getLogger(__name__)

_ANOMALY = re.compile(r"Function '\w+' returned nan values in its \d+th output")
_ADVICE = (
    "with resume=auto try trainer.gradient_clip_val=1 or callbacks.finite.action=skip, in a new "
    "run also a lower optimizer.lr, scheduler.warmup_epochs or model.init=glorot"
)
_FORWARD = "HYDRA_FULL_ERROR=1 shows the line of the forward pass that called it"


class NonFiniteError(InputError):
    """Training met a loss or gradient that is no number; one line with the batch and its file."""


class FiniteGuard(Callback):
    """Looks at loss and gradients before each optimiser step, in all processes alike.

    Under the loss scaling of `trainer.precision=16-mixed` infinite gradients are the scaler's
    business, which skips such steps: they are counted, and only too many in a row stop the run.

    Args:
        run_dir: the run's folder; the batch that stops a run is written to `nonfinite` in it.
        action: `stop` with a NonFiniteError, the weights as they were before the step, or `skip`
            the step: neither weights nor optimiser nor batch norm's statistics move, the schedule
            does. `train/skipped_steps` counts them.
        max_skips: so many steps in a row may be skipped.
    """

    def __init__(
        self,
        run_dir: str,
        action: Literal["stop", "skip"] = "stop",
        max_skips: Annotated[int, Ge(1)] = 100,
    ) -> None:
        self.folder = Path(run_dir) / "nonfinite"
        self.action = action
        self.max_skips = max_skips
        self.anomaly: NonFiniteError | None = None
        self._skipped = 0
        self._in_a_row = 0
        self._batch: tuple[Tensor, Tensor, int] | None = None
        self._loss = torch.tensor(0.0)
        self._bad: BadBatch | None = None
        self._statistics: list[Tensor] = []
        self._before: list[Tensor] = []

    def state_dict(self) -> dict[str, int]:
        return {"skipped": self._skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        buffers = _classifier(trainer).network.buffers()
        self._statistics = [buffer for buffer in buffers if buffer.is_floating_point()]
        self._before = [buffer.clone() for buffer in self._statistics]

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
    ) -> None:
        self._batch = (*batch, batch_idx)
        if self._statistics and batch_idx % trainer.accumulate_grad_batches == 0:
            torch._foreach_copy_(self._before, self._statistics)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        self._loss = loss.detach()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bad is None:
            self._bad = self._examined(trainer)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        bad, self._bad = self._bad, None
        if not _anywhere(bad is not None, trainer):
            self._in_a_row = 0
            return
        self._restore_statistics()
        scaled = _scale(trainer) is not None
        if not (scaled or self.action == "skip") or self._in_a_row == self.max_skips:
            error = self._error(trainer, bad)
            _save_no_more(trainer)
            if not trainer.is_global_zero:
                sys.exit(2)  # the first process says it for all
            raise error
        self._skipped += 1
        self._in_a_row += 1
        if not scaled:
            optimizer.zero_grad(set_to_none=True)
            if self._in_a_row == 1 and bad is not None:
                log.warning("skipped: %s at %s", bad.finding, bad.position)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._batch = None  # its memory is the next one's
        cadence: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self._skipped and trainer.global_step % cadence == 0:
            pl_module.log("train/skipped_steps", float(self._skipped))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        found = _ANOMALY.match(str(exception))
        if found is not None and self._batch is not None:
            self._restore_statistics()
            weights = _classifier(trainer).network.state_dict()
            line = self._line(trainer, found[0], self._at_hand(trainer, []), weights)
            self.anomaly = NonFiniteError(f"{line}; {_FORWARD}")
            _save_no_more(trainer)

    def _examined(self, trainer: Trainer) -> BadBatch | None:
        network = _classifier(trainer).network
        # Of sharded parameters a device looks at its own part: all are asked before the step.
        gradients = [local_part(p.grad) for p in network.parameters() if p.grad is not None]
        if (torch.nn.utils.get_total_norm(gradients) + self._loss).isfinite():
            return None
        names = [name for name, gradient in gradients_of(network) if not is_finite(gradient)]
        if not names and self._loss.isfinite():
            return None  # the squares in the norm overflowed, no gradient did
        return self._at_hand(trainer, names)

    def _at_hand(self, trainer: Trainer, gradients: list[str]) -> BadBatch:
        assert self._batch is not None
        images, labels, batch = self._batch
        loader: Any = trainer.train_dataloader
        loss_scale = (_scale(trainer) or 1.0) / trainer.accumulate_grad_batches
        return BadBatch(
            images=images,
            labels=labels,
            indices=loader.indices,
            step=trainer.global_step,
            epoch=trainer.current_epoch,
            batch=batch,
            rank=trainer.global_rank,
            lr=trainer.optimizers[0].param_groups[0]["lr"],
            seed=_classifier(trainer).seed,
            loss=float(self._loss) / loss_scale,
            loss_scale=loss_scale,
            gradients=gradients,
            device=images.device.type,
        )

    def _restore_statistics(self) -> None:
        """The forward pass has moved batch norm's running statistics already, perhaps to nan."""
        if self._statistics:
            torch._foreach_copy_(self._statistics, self._before)

    def _error(self, trainer: Trainer, bad: BadBatch | None) -> NonFiniteError:
        by_loss = bad is not None and not math.isfinite(bad.loss)
        # After the reduction all have the bad gradients; a loss tells whose batch it was.
        known = _anywhere(by_loss, trainer)
        weights = gathered(_classifier(trainer).network.state_dict(), keep=True)
        line = None
        if bad is not None and (by_loss or not known):
            skips = f" after {self._in_a_row} skipped steps" if self._in_a_row else ""
            line = f"{self._line(trainer, bad.finding + skips, bad, weights)}; {_ADVICE}"
        lines = [line] * trainer.world_size
        if trainer.world_size > 1:
            all_gather_object(lines, line)
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            # Each process stops by itself, and nobody is to name one that has as the cause.
            launcher.procs.clear()
        return NonFiniteError(next(filter(None, lines)))

    def _line(self, trainer: Trainer, what: str, bad: BadBatch, weights: dict[str, Tensor]) -> str:
        path = self.folder / f"step-{bad.step:06}-rank-{bad.rank}.pt"
        kept = write_bad_batch(path, _classifier(trainer).card, weights, bad)
        return f"{what} at {bad.position}; {kept}"


def anomaly(trainer: Trainer, error: RuntimeError) -> NonFiniteError | None:
    """What `trainer.detect_anomaly` found, as a line for people; None for another error."""
    found = _ANOMALY.match(str(error))
    if found is None:
        return None
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for guard in callbacks:
        if isinstance(guard, FiniteGuard) and guard.anomaly is not None:
            return guard.anomaly
    return NonFiniteError(f"{found[0]}; {_FORWARD}")


def _save_no_more(trainer: Trainer) -> None:
    """A checkpoint of now would resume after the batch, as if it had been trained on."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            callback.save_on_exception = False


def _anywhere(found: bool, trainer: Trainer) -> bool:
    """Whether any process found it. (Lightning's own also waits at a barrier, in every step.)"""
    if trainer.world_size == 1:
        return found
    anywhere = torch.tensor(int(found), device=trainer.strategy.root_device)
    all_reduce(anywhere, ReduceOp.MAX)
    return bool(anywhere)


def _classifier(trainer: Trainer) -> Classifier:
    return cast("Classifier", trainer.lightning_module)


def _scale(trainer: Trainer) -> float | None:
    """What mixed precision with float16 multiplies the loss by; None without it."""
    plugin = trainer.precision_plugin
    if isinstance(plugin, MixedPrecision) and plugin.scaler is not None:
        return float(plugin.scaler.get_scale())
    return None
