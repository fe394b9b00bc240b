"""Training runs whose processes are forks, and so start without seconds of imports."""

import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.faults.child import RUN, Plan, compose_job, train
from tests.faults.disk import Fault
from tests.faults.trials import SEVERAL_PROCESSES, overrides_of
from tests.training.runs import ending

HANGS = 300.0  # seconds; a run takes 3, a script on a busy machine more than a minute
PATIENCE = 60.0  # seconds until a process has noticed that the other one is gone


@dataclass
class Forks:
    """Starts processes as forks of one that has imported everything."""

    context: Any = field(default_factory=lambda: multiprocessing.get_context("forkserver"))

    def __post_init__(self) -> None:
        self.context.set_forkserver_preload(["tests.faults.child"])
        before = dict(os.environ)
        path = os.pathsep.join([str(ROOT), before.get("PYTHONPATH", "")])
        os.environ.update(PYTHONPATH=path, OMP_NUM_THREADS="1", VGGLAB_FORKED_FROM_HERE="1")
        try:
            ensure_running()
        finally:
            os.environ.clear()
            os.environ.update(before)
        self.start(os.getpid).join()  # now everything is imported

    def start(self, target: Callable[..., object], *arguments: Any) -> Any:
        process = self.context.Process(target=target, args=arguments)
        process.start()
        return process


@dataclass(frozen=True)
class Reference:
    """An undisturbed run."""

    folder: Path
    diary: Path

    @property
    def job(self) -> Path:
        return self.folder / "job"

    @property
    def seconds(self) -> float:
        return float((self.diary / "seconds").read_text())

    @property
    def ending(self) -> dict[str, Any]:
        return ending(self.folder / RUN)

    @property
    def operations(self) -> dict[tuple[str, str], int]:
        rows = json.loads((self.diary / "operations.json").read_text())
        return {(operation, kind): count for operation, kind, count in rows}


class ForkedRun:
    """A run in its folder, which a process begins and others continue.

    Args:
        job: what to train.
        world_size: in how many processes.
        folder: for the run's folder and what else is written.
        forks: starts the processes.
    """

    def __init__(self, job: Path, world_size: int, folder: Path, forks: Forks) -> None:
        self.job = job
        self.world_size = world_size
        self.folder = folder
        self.run_dir = folder / RUN
        self.forks = forks
        self.processes: list[Any] = []
        self.story: list[str] = []
        self.started = 0

    @property
    def diary(self) -> Path:
        return self.folder / f"process{self.started}"

    def start(self, fault: Fault | None = None) -> None:
        """Begin the run, or continue it with `resume=auto`; it goes on when this returns."""
        self._wait_for_the_next_second()
        self.started += 1
        self.diary.mkdir()
        resume = "auto" if self.started > 1 else None
        port = _free_port()
        self.processes = []
        for rank in range(self.world_size):
            fault_here = fault if rank == 0 else None
            world = self._world(rank, port) if self.world_size > 1 else {}
            plan = Plan(self.job, resume, self.folder, self.diary, fault_here, world)
            self.processes.append(self.forks.start(train, plan))

    def _world(self, rank: int, port: str) -> dict[str, str]:
        """What Lightning's launcher would tell its children."""
        world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
        return {**world, "LOCAL_RANK": str(rank), "WORLD_SIZE": str(self.world_size)}

    def wait(self, seconds: float) -> bool:
        """Whether the run ended within that time."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        return all(process.exitcode is not None for process in self.processes)

    def kill(self) -> None:
        """What still runs, with its workers."""
        for process in self.processes:
            if process.exitcode is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.join()

    def end(self) -> int:
        """The first process's exit code, or minus its signal, once everything is gone."""
        assert self.wait(HANGS), f"hangs: {self.output}"
        for process in self.processes:
            nothing_survives(process.pid)
        return int(self.processes[0].exitcode)

    @property
    def output(self) -> str:
        """What the first process wrote to standard error, if it came so far."""
        file = self.diary / "err0"
        return file.read_text() if file.exists() else ""

    def _wait_for_the_next_second(self) -> None:
        # TensorBoard reads event files in the order of their names, which hold the second. Two
        # processes of one run within a second happen only here, where a start costs no imports.
        names = [path.name for path in self.run_dir.glob("tensorboard/events.*")]
        seconds = [int(name.split(".")[3]) for name in names]
        while time.time() < max(seconds, default=0) + 1:
            time.sleep(0.01)


def nothing_survives(group: int) -> None:
    """Wait until a group of processes is gone; loaders' workers look every five seconds."""
    end = time.monotonic() + PATIENCE
    while _exists(group):
        assert time.monotonic() < end, "a process survives"
        time.sleep(0.01)


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def make_reference(configuration: str, folder: Path, forks: Forks) -> Reference:
    """Train undisturbed."""
    job = folder / "job"
    forks.start(compose_job, overrides_of(configuration), job).join()
    run = ForkedRun(job, 1 + (configuration in SEVERAL_PROCESSES), folder, forks)
    run.start()
    assert run.end() == 0, run.output
    return Reference(folder, run.diary)
