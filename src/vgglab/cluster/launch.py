"""How the processes of a run are started."""

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from hydra.core.hydra_config import HydraConfig
from lightning import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from vgglab.cluster.watch import AGAIN, say
from vgglab.config.started import slurm_job
from vgglab.ranks import local_rank

_LAUNCHER = "VGGLAB_LAUNCHER"
_SWEEP = "VGGLAB_SWEEP"
_ELSEWHERE = "192.0.2.1"  # no host's (RFC 5737)
_RESTARTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
_OF_THE_SWEEP = re.compile(r"\+*hydra[./](mode|sweep|launcher|sweeper|run)\b")


@contextmanager
def ending_with_launcher() -> Iterator[None]:
    """End the processes that Lightning or a sweep starts when the one that starts them is killed.

    Until they have met, nothing else tells them: they would wait for it for half an hour.
    """
    leaving = Event()
    if (sweep := os.environ.pop(_SWEEP, None)) is not None:
        _end_after(int(sweep), leaving)
    launcher = os.environ.get(_LAUNCHER)
    if local_rank() == 0:
        os.environ[_LAUNCHER] = str(os.getpid())  # they inherit it
    elif launcher is not None and "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun's are its own
        # The launcher may be gone already: then the first look ends this process.
        _end_after(int(launcher), leaving)
    try:
        yield
    finally:
        leaving.set()
        if os.environ.get(_LAUNCHER) == str(os.getpid()):
            del os.environ[_LAUNCHER]


def _end_after(parent: int, leaving: Event) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        if not leaving.is_set():
            say(f"process {parent}, which started this one, is gone; {AGAIN}")
        os.kill(os.getpid(), signal.SIGKILL)

    Thread(target=watch, daemon=True).start()


def resume_setting(resume: str | None, checkpoints: Path) -> str | None:
    """`resume=`, which is `auto` by itself where a command comes again unasked.

    That is in a job of SLURM or submitit and, once there is a checkpoint, also where a file was
    named: a job that is requeued begins with it only once.

    Args:
        resume: as configured.
        checkpoints: the run's folder for them.
    """
    is_again = any(os.environ.get(name, "0") != "0" for name in _RESTARTS)
    if is_again and any(checkpoints.glob("*.ckpt")):
        return "auto"
    comes_again = slurm_job() is not None or "SUBMITIT_EXECUTOR" in os.environ
    return "auto" if resume is None and (comes_again or is_again) else resume


def starts_processes(trainer: Trainer) -> bool:
    """Whether Lightning itself is to start the other processes of this run."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    by_lightning = environment is not None and not environment.creates_processes_externally
    return bool(trainer.world_size > 1 and by_lightning)


def use_interface_of_master(trainer: Trainer) -> None:
    """Have gloo talk through the network interface that leads to the first node.

    It takes the one that the host's own name stands for: on Debian 127.0.1.1, which no other node
    can reach. On the first node itself it is the one that leads elsewhere, or any that does not
    end in this host. NCCL finds its interfaces by itself.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.num_nodes == 1 or environment is None or "GLOO_SOCKET_IFNAME" in os.environ:
        return
    named = {_address_of(name): name for _, name in socket.if_nameindex()}
    outer = [own for own in named if own is not None and not own.startswith("127.")]
    towards = [_own_address(host) for host in (environment.main_address, _ELSEWHERE)]
    for own in [own for own in (*towards, *outer) if own in outer][:1]:
        os.environ["GLOO_SOCKET_IFNAME"] = named[own]


def _own_address(towards: str) -> str | None:
    """That of the interface which leads there."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.connect((towards, 9))  # sends nothing
        return str(unused.getsockname()[0])
    return None


def _address_of(interface: str) -> str | None:
    with suppress(ImportError, OSError), socket.socket() as any_socket:  # Windows, or it has none
        import fcntl

        request = struct.pack("256s", interface.encode())
        answer = fcntl.ioctl(any_socket, 0x8915, request)  # SIOCGIFADDR of Linux
        return socket.inet_ntoa(answer[20:24])
    return None


def run_apart(run_dir: Path) -> None:
    """Run this job of a sweep as a command of its own, and wait for it.

    The processes that Lightning starts repeat the command that started them. Were that the
    `--multirun`, each would begin the sweep again, ranks would train with different
    hyper-parameters, or wait for each other (lightning issues 11300 and 18175, hydra issue 2070).

    Raises:
        SystemExit: with the command's exit code, if it is not 0.
    """
    process = subprocess.Popen(_command(run_dir), env={**os.environ, _SWEEP: str(os.getpid())})
    try:
        code = process.wait()
    except SIGTERMException:  # this process was told to stop
        process.terminate()
        process.wait()
        raise
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


def _command(run_dir: Path) -> list[str]:
    hydra = HydraConfig.get()
    command = [sys.executable, os.path.abspath(sys.argv[0])]
    command += ["--config-name", str(hydra.job.config_name)]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            command += ["--config-dir", source.path]
    kept = (o for o in hydra.overrides.hydra if not _OF_THE_SWEEP.match(o))
    own = (f"hydra.job.num={hydra.job.num}", f"hydra.run.dir='{run_dir}'")
    return [*command, *hydra.overrides.task, *kept, *own]
