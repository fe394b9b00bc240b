"""A run of several processes ends, with one line, when one of them dies or hangs."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock, Thread
from types import TracebackType
from typing import NoReturn

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed

from vgglab.cluster.channel import Channel, Word
from vgglab.cluster.preemption import REQUEUE
from vgglab.cluster.signs import Sign, address, blame, is_loss, missed_meeting, place, shortened
from vgglab.cluster.submitit_tasks import report_end
from vgglab.config.door import FULL_TRACEBACK
from vgglab.config.errors import explain
from vgglab.errors import InputError
from vgglab.progress import over_bars

# What a process group is given beyond `timeout_seconds`: the processes of a launch do not begin in
# the same second, and the watch must speak before NCCL's own watchdog aborts the process.
GRACE_SECONDS = 60

_LATE = 10  # torch itself gives up within GRACE_SECONDS, or tries once more for as long
AGAIN = "resume=auto continues from the last checkpoint"
_speech = Lock()


def say(line: str) -> None:
    """Give the reason why this process ends, unless another thread of it has given one."""
    if _speech.acquire(blocking=False):
        # A blocked thread may hold the lock of `print`; and the terminal may be gone.
        with suppress(OSError):
            os.write(2, over_bars() + f"error: {line}\n".encode())


class Watch(Callback):
    """As a context around a run: no process waits for ever for one that is lost.

    A process without progress for `timeout_seconds`, or whose collective fails, names the one that
    all wait for, and ends; one that fails by itself tells the others why. How far a process is
    stands in its trainer's loops: nothing is done per step.

    Args:
        trainer: not started yet; with one process nothing is watched.
        timeout_seconds: the longest that a batch, a validation's end or a checkpoint may take.

    Attributes:
        before_leaving: called with exit code and reason, in any thread, before the process is ended
            from here; must not raise.
    """

    def __init__(self, trainer: Trainer, timeout_seconds: int) -> None:
        self.trainer = trainer
        self.timeout = timeout_seconds
        self.before_leaving: Callable[[int, str], None] | None = None
        self.node = socket.gethostname()
        self.period = min(1.0, timeout_seconds / 10)
        self.channel = Channel(
            trainer.global_rank, trainer.world_size, self.period, self._sign_of_life
        )
        self._ended = Event()
        self._failing = False
        self._moves = 0
        self._moved = time.monotonic()

    def __enter__(self) -> "Watch":
        if self.trainer.world_size > 1:
            self.trainer.callbacks.append(self)  # type: ignore[attr-defined]
            # Lightning's own kills all processes without a word when one has failed.
            subprocess_script._launch_process_observer = _nothing  # type: ignore[attr-defined]
            self.channel.open()
            Thread(target=self._judge, name="watch", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.trainer.world_size > 1:
            if isinstance(error, Exception):
                self._fail(error)
            elif isinstance(error, SIGTERMException) and not self.trainer.received_sigterm:
                # Told at a moment when it does not ask the others.
                self.channel.tell(
                    (REQUEUE, f"{self._name()} was told to stop"), self.trainer.world_size
                )
            self._ended.set()
            self.channel.close()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find processes that continue from different checkpoints.

        Raises:
            InputError: some see other files in the run's folder than others.
        """
        step = trainer.global_step
        extremes = torch.tensor([step, -step], device=trainer.strategy.root_device)
        distributed.all_reduce(extremes, distributed.ReduceOp.MAX)
        last, first = int(extremes[0]), -int(extremes[1])
        if first != last:
            raise InputError(
                f"the processes see different checkpoints in the run's folder: steps {first} and "
                f"{last}; give resume=PATH, or wait until the file system shows all the same"
            )

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, Exception):
            self._fail(exception)

    # In the main thread

    def _fail(self, error: Exception) -> None:
        """Tell the others why this process ends, or end because of another one."""
        if self._failing:
            return
        self._failing = True
        with suppress(ValueError):  # only the main thread may
            # torchrun sends it to all when one has failed: the line comes first.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if is_loss(error):
            word = self._cause(error)
            if not FULL_TRACEBACK:
                with suppress(Exception):
                    self.trainer.strategy.checkpoint_io.teardown()  # finishes what it writes
                self._leave(word)
        else:
            line = explain(error)
            code = 1 if line is None else 2
            line = line or f"{type(error).__name__}: {error}".partition("\n")[0]
            self.channel.tell((code, f"{self._name()}: {line}"), self.trainer.world_size)

    def _cause(self, error: Exception) -> Word:
        """Of a failed collective."""
        if (missed := missed_meeting(error)) is not None:
            return 1, missed
        end = time.monotonic() + 5 * self.period
        while time.monotonic() < end:
            self.channel.look()
            time.sleep(self.period / 5)  # a word says more than how a child ended
            if (word := self.channel.word or self._failed_child()) is not None:
                return word
        broken = f"{self._name()} lost the connection to another one: {shortened(error)}"
        return self._agree(self._lost(3 * self.period) or broken)

    # In a thread of its own

    def _judge(self) -> None:
        begun, told = time.monotonic(), 0.0
        while not self._ended.wait(self.period):
            now = time.monotonic()
            have_met = distributed.is_initialized()
            if not have_met and now - begun > self.timeout + GRACE_SECONDS + _LATE:
                self._leave((1, f"the processes have not met: nothing answers at {address()}"))
            works = have_met and not self.trainer.state.finished
            if (moves := self._count()) != self._moves or not works:
                self._moves, self._moved, self.channel.looks = moves, now, False
            if now - self._moved > self.timeout / 4:
                self.channel.look()
            if now - self._moved > self.timeout:
                self._leave(self._agree(self._lost(self.timeout / 2) or "no process advances"))
            word = self.channel.word or self._failed_child()
            if word is not None and not self._failing:
                told = told or now
                if now - told > 3 * self.period:  # time for the main thread to end by itself
                    self._leave(word)

    def _count(self) -> int:
        """Grows while batches advance."""
        fit = self.trainer.fit_loop.epoch_loop
        loops = (fit, fit.val_loop, self.trainer.test_loop)
        totals = [loop.batch_progress.total for loop in loops]
        return sum(total.ready + total.completed for total in totals)

    def _position(self) -> str:
        trainer = self.trainer
        if trainer.testing:
            return f"test, batch {trainer.test_loop.batch_progress.current.completed}"
        fit = trainer.fit_loop.epoch_loop
        validates = trainer.validating or trainer.sanity_checking
        loop, what = (fit.val_loop, "validation batch") if validates else (fit, "batch")
        return f"epoch {trainer.current_epoch}, {what} {loop.batch_progress.current.completed}"

    def _name(self) -> str:
        return self._sign_of_life(0).name(self.trainer.world_size)

    def _sign_of_life(self, beat: int) -> Sign:
        where, waits = place() if self.channel.looks else ("", False)
        idle = time.monotonic() - self._moved
        return Sign(
            self.trainer.global_rank,
            self.node,
            beat,
            self._moves,
            self._position(),
            idle,
            where,
            waits,
            time.time(),
        )

    def _lost(self, quiet: float) -> str | None:
        """What is said of the process that is lost; None if none is.

        Args:
            quiet: seconds without a sign until a process counts as lost.
        """
        size = self.trainer.world_size
        if not self.channel.answers(quiet):
            return (
                f"rank 0 of {size}, or its node, is gone: nothing answers at {address()}; "
                f"{self._name()} was at {self._position()}"
            )
        silent = self.channel.silent(quiet)
        if silent or time.monotonic() - self._moved > self.timeout:
            signs = {**self.channel.signs(), self.trainer.global_rank: self._sign_of_life(0)}
            return blame(size, signs, silent, self.timeout)
        return None

    def _failed_child(self) -> Word | None:
        """Of the processes that Lightning's launcher has started here, one that failed."""
        for number, child in enumerate(self._children(), start=1):
            if code := child.poll():
                how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
                name = f"rank {self.trainer.global_rank + number} of {self.trainer.world_size}"
                line = f"{name} (node {self.node}) ended by {how} at {self._position()}"
                return max(code, 1), f"{line}; {AGAIN}"
        return None

    def _children(self) -> list["subprocess.Popen[bytes]"]:
        return getattr(self.trainer.strategy.launcher, "procs", [])

    def _agree(self, line: str) -> Word:
        """All processes that still can give the same reason."""
        word = 1, f"{line}; {AGAIN}"
        others = self.channel.silent(3 * self.period)
        self.channel.tell(word, self.trainer.world_size - len(others))
        return self.channel.word or word

    def _leave(self, word: Word) -> NoReturn:
        """End this process at once, whatever its main thread does, and those that are stopped."""
        code, line = word
        say(line)
        report_end(line)
        if self.before_leaving is not None:
            self.before_leaving(code, line)
        end = time.monotonic() + 5 * self.period  # they may be about to say the same
        for child in self._children():
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, end - time.monotonic()))
            child.send_signal(signal.SIGKILL)
        parent = os.getppid()
        if self._may_hang(parent):
            time.sleep(5 * self.period)  # it ends by itself, if it can
            if os.getppid() == parent:
                os.kill(parent, signal.SIGKILL)
        os._exit(code)

    def _may_hang(self, parent: int) -> bool:
        """Whether the process that started this one ends only if it is killed.

        Lightning's may be the one that is stopped. torchrun, where its store's node is gone, waits
        until the system gives the connection up: a quarter of an hour.
        """
        if os.environ.get("VGGLAB_LAUNCHER") == str(parent):
            return True
        if "TORCHELASTIC_RUN_ID" not in os.environ or self.channel.answers(5 * self.period):
            return False
        with suppress(OSError):
            command = Path(f"/proc/{parent}/cmdline").read_bytes()
            return b"torch.distributed.run" in command or b"torchrun" in command
        return False


def _nothing(child_processes: list["subprocess.Popen[bytes]"]) -> None:
    pass
