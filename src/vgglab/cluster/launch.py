"""How the processes of a run are started."""

import os
import signal
import time
from threading import Thread
from typing import Any

from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy, Strategy

from vgglab.config.schema import AcceleratorConfig
from vgglab.errors import InputError

_LAUNCHER = "VGGLAB_LAUNCHER"


def end_with_launcher() -> None:
    """End the processes that Lightning starts when the one that starts them is killed.

    Until they have met, nothing else tells them: they would wait for it for half an hour.
    """
    launcher = os.environ.get(_LAUNCHER)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.environ[_LAUNCHER] = str(os.getpid())  # they inherit it
    elif launcher is not None and "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun's are its own
        # The launcher may be gone already: then the first look ends this process.
        Thread(target=_end_after, args=(int(launcher),), daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


def strategy(accelerator: AcceleratorConfig) -> Strategy | str:
    """How the processes of a run share their work."""
    if accelerator.strategy == "auto":
        return "auto"
    return DDPStrategy(
        process_group_backend=accelerator.process_group_backend,
        gradient_as_bucket_view=True,  # saves one copy of the gradients
    )


def hear_sigterm(trainer: Trainer) -> None:
    """Take a collective out of Lightning's handler: it hangs where the signal meets another one.

    Its training loop asks all processes before each batch whether one of them was told to stop.
    """
    connector = trainer._signal_connector

    def told(signum: int, frame: Any) -> None:
        launcher = trainer.strategy.launcher
        if launcher is not None and not connector.received_sigterm:
            launcher.kill(signum)
        connector.received_sigterm = True

    connector._sigterm_notifier_fn = told  # type: ignore[assignment,method-assign]


def refuse_sweep_that_repeats_itself(is_sweep: bool, trainer: Trainer) -> None:
    """Refuse `--multirun` where Lightning itself starts the other processes.

    Each child repeats the whole command, and with it the sweep: ranks then train with different
    hyper-parameters, with exit code 0 (lightning issues 11300 and 18175, hydra issue 2070).

    Raises:
        InputError: with what works.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    starts_children = environment is not None and not environment.creates_processes_externally
    if is_sweep and trainer.world_size > 1 and starts_children:
        raise InputError(
            "--multirun with several processes that Lightning starts would repeat the sweep in "
            "each of them; sweep with accelerator.devices=1, or start each run by itself"
        )
