"""A run that is told to stop finishes the step, writes a checkpoint, and asks to be run again."""

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed
from torch.optim import Optimizer

from vgglab.progress import over_bars
from vgglab.ranks import process_rank

log = logging.getLogger(__name__)

# sysexits.h's EX_TEMPFAIL: it failed for now, try again.
REQUEUE = 75

# A person, or who stops a process; SLURM's warning, as Lightning and as submitit ask for it.
_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")  # Windows has the first two
_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
# One Ctrl-C can reach a process twice: from the terminal, and from who launched it.
_SAME_SECONDS = 1.0


class Preemption(Callback):
    """Stops a run at the same step in all its processes, whichever of them was told to.

    As a context around the run it holds the signals' handlers; as a callback of the trainer it
    finds the step. While nothing is trained there is nothing to finish, and the run ends at once.
    The exit code is REQUEUE; a second SIGINT ends the process as if there were no handler.

    The processes ask each other when a step begins, and read the answer before its optimiser's
    step, where `vgglab.training.finite` waits for the GPU anyhow. (Lightning broadcasts the first
    process's flag before each step, waits for it, and hears no other process.)
    """

    def __init__(self) -> None:
        self._told: signal.Signals | None = None
        self._when = 0.0
        self._process = os.getpid()
        self._previous: dict[signal.Signals, Any] = {}
        self._training = False
        self._rank = process_rank()
        self._several = False
        self._question = torch.zeros(1, dtype=torch.int32)
        self._pending: Any = None
        self._agreed = False

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._hear) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stops = isinstance(error, SIGTERMException)
        for number, handler in self._previous.items():
            # Who ends the other processes once one has ended must not change this one's exit code.
            ends = number == signal.SIGINT or not stops
            signal.signal(number, handler if ends else signal.SIG_IGN)
        if stops:  # Lightning's would leave with exit code 0
            name = "another process's signal" if self._told is None else self._told.name
            if self._rank == 0:
                log.warning("stopped by %s; resume=auto continues from the checkpoint", name)
            self._requeue()
            # Whoever launched the processes ends the others when one fails, and the first one may
            # still be writing.
            waits = self._agreed and self._rank > 0
            raise SystemExit(0 if waits else REQUEUE) from error

    def take_over(self, trainer: Trainer) -> None:
        """Leave none of this to Lightning."""
        self._rank, self._several = trainer.global_rank, trainer.world_size > 1
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        loop = trainer.fit_loop.epoch_loop
        loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._question = self._question.to(trainer.strategy.root_device)
        self._training = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._ask()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        self._answer()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not self._several:
            self._answer()  # also to what it was told during the step
        # A step's first half, its accumulated gradients, is in no checkpoint; and at an epoch's
        # last batch its validation comes first.
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self._agreed and stepped and not trainer.is_last_batch:
            trainer._signal_connector.received_sigterm = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ask()
        self._answer()
        if self._agreed:
            trainer._signal_connector.received_sigterm = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._training = False
        if self._told is not None:  # since the last epoch's end
            raise SIGTERMException

    def _ask(self) -> None:
        if self._several and self._pending is None:  # of gradients that accumulate, once a step
            self._question.fill_(self._told is not None)
            maximum = distributed.ReduceOp.MAX
            self._pending = distributed.all_reduce(self._question, maximum, async_op=True)

    def _answer(self) -> None:
        if not self._several:
            self._agreed = self._told is not None
        elif self._pending is not None:
            self._pending.wait()
            self._pending = None
            self._agreed = self._agreed or bool(self._question)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a loader's worker, which the step may yet need
        now = time.monotonic()
        if self._told is None:
            self._told, self._when = signal.Signals(number), now
            if not self._training:
                raise SIGTERMException
            self._say()
        elif number == signal.SIGINT and now - self._when > _SAME_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(self._process, number)

    def _say(self) -> None:
        assert self._told is not None
        if self._rank == 0:
            again = "; once more stops at once" if self._told == signal.SIGINT else ""
            line = f"{self._told.name}: stops after this step{again}\n"
            # Not through `print`, which the signal may have interrupted; the terminal may be gone.
            with suppress(OSError):
                os.write(2, over_bars() + line.encode())

    def _requeue(self) -> None:
        """Hand the signal on to submitit, which requeues its job by itself."""
        handler = None if self._told is None else self._previous.get(self._told)
        if self._told not in (signal.SIGINT, signal.SIGTERM) and callable(handler):
            handler(self._told, None)
