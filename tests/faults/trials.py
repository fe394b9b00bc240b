"""Training runs that are disturbed, resumed until they end, and compared with undisturbed ones."""

import json
import multiprocessing
import os
import random
import re
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any

import torch

from tests.conftest import ROOT, TINY
from tests.faults.child import RUN, Plan, compose_job, train
from tests.faults.disk import Fault
from tests.training.runs import assert_same, curves, history

LEARNING = (
    *TINY,
    "trainer.max_epochs=3",
    "data.noise=0.2",
    "optimizer.lr=0.05",
    "data.shuffle=true",
    "data.pad=2",
    "data.flip=true",
    "model.dropout=0.5",
)


def _every(steps: int) -> tuple[str, ...]:
    return (
        "callbacks.last_checkpoint.every_n_epochs=null",
        f"callbacks.last_checkpoint.every_n_train_steps={steps}",
    )


EMA = ("callbacks=[default,ema]", "callbacks.ema.decay=0.9")
PLATEAU = ("scheduler=plateau", "scheduler.patience=0", "scheduler.threshold=0.5")
MIXING = ("data.mixup_alpha=0.4", "data.cutmix_alpha=1")
CONFIGURATIONS = {
    "every epoch": (),
    "every step": _every(1),
    "every second step": _every(2),
    "batch norm, every fourth step": ("model=vgg11_bn", *_every(4)),
    "moving average": (*EMA, *_every(2)),
    "moving average, every epoch": EMA,
    "mixing": ("model=vgg11_bn", *MIXING, *_every(3)),
    "plateau": (*PLATEAU, *_every(2)),
    "plateau, every epoch": PLATEAU,
    "one cycle": ("scheduler=one_cycle", *_every(3)),
    "warm-up, AdamW": ("scheduler.warmup_epochs=1.5", "optimizer=adamw", *_every(2)),
    "workers": ("data.num_workers=2", *_every(2)),
    "accumulation": ("trainer.accumulate_grad_batches=2", *_every(1)),
    "half precision": ("trainer.precision=bf16-mixed", *_every(2)),
    "synchronous": ("trainer.async_checkpoints=false", "model=vgg11_bn", *EMA, *_every(2)),
}
SEVERAL_PROCESSES = {
    "two processes": ("accelerator=ddp_cpu", "model=vgg11_bn", *_every(2)),
    "two processes, mixing": ("accelerator=ddp_cpu", *MIXING, *EMA, *_every(3)),
}


def overrides_of(configuration: str) -> tuple[str, ...]:
    """Of scripts/train.py."""
    return (*LEARNING, *{**CONFIGURATIONS, **SEVERAL_PROCESSES}[configuration])


# Of twenty trials.
KINDS = {
    "SIGKILL": 5,
    "SIGKILL at a file operation": 5,
    "power cut": 4,
    "SIGTERM": 2,
    "full disk": 2,
    "one of two processes": 1,
    "two processes of the launcher": 1,
}

HANGS = 120.0  # seconds; a run takes 3
PATIENCE = 60.0  # seconds until a process has noticed that the other one is gone


@dataclass(frozen=True)
class Trial:
    """What happens to one run: a function of the seed, but for moments in seconds."""

    seed: int

    @property
    def kind(self) -> str:
        kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
        return kinds[self.seed % len(kinds)]

    @cached_property
    def chance(self) -> random.Random:
        return random.Random(self.seed)

    @cached_property
    def configuration(self) -> str:
        return self.chance.choice(list(SEVERAL_PROCESSES if self.several else CONFIGURATIONS))

    @property
    def overrides(self) -> tuple[str, ...]:
        return overrides_of(self.configuration)

    @property
    def several(self) -> bool:
        return "two processes" in self.kind

    @property
    def launched(self) -> bool:
        return "launcher" in self.kind

    @cached_property
    def disturbances(self) -> int:
        return 1 if "launcher" in self.kind else self.chance.randint(1, 3)


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


class Run:
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

    def wait(self, seconds: float = HANGS) -> bool:
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

    @property
    def code(self) -> int:
        """The first process's exit code; minus the number of the signal that killed it."""
        return int(self.processes[0].exitcode)

    @property
    def complaint(self) -> str:
        return (self.diary / "err0").read_text()

    def _wait_for_the_next_second(self) -> None:
        # TensorBoard reads event files in the order of their names, which hold the second. Two
        # processes of one run within a second happen only here, where a start costs no imports.
        names = [path.name for path in self.run_dir.glob("tensorboard/events.*")]
        seconds = [int(name.split(".")[3]) for name in names]
        while time.time() < max(seconds, default=0) + 1:
            time.sleep(0.01)


def _free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def make_reference(configuration: str, folder: Path, forks: Forks) -> Reference:
    """Train undisturbed."""
    job = folder / "job"
    forks.start(compose_job, overrides_of(configuration), job).join()
    run = Run(job, 1 + (configuration in SEVERAL_PROCESSES), folder, forks)
    run.start()
    assert run.wait(), "the undisturbed run hangs"
    assert run.code == 0, run.complaint
    return Reference(folder, run.diary)


def undergo(trial: Trial, run: Run, reference: Reference) -> bool:
    """Disturb, resume until the end, compare; False if it ended before anything happened to it."""
    for left in range(trial.disturbances, 0, -1):
        disturbed = _disturb(trial, run, reference)
        _nothing_survives(run)
        if not disturbed:
            if left == trial.disturbances:
                return False
            break
        _nothing_is_lost(run)
    else:
        run.start()
        assert run.wait(), "the resumed run hangs"
    run.story.append(f"ended with {run.code}")
    assert run.code == 0, run.complaint
    assert_same(reference.ending, ending(run.run_dir), "")
    expected = _state(reference.diary / "final.pt")
    for path in run.folder.glob("process*/final.pt"):
        assert_same(expected, _state(path), "at the end of training")
    return True


def _disturb(trial: Trial, run: Run, reference: Reference) -> bool:
    """Start it and let something happen to it; False if it ended before that."""
    chance = trial.chance
    moment = chance.uniform(0, reference.seconds)
    if trial.kind in ("SIGKILL", "SIGTERM"):
        run.start()
        if run.wait(moment):
            return False
        run.story.append(f"{trial.kind} after {moment:.3f} s of {reference.seconds:.3f} s")
        os.kill(run.processes[0].pid, getattr(signal, trial.kind))
        assert run.wait(), f"hangs after {trial.kind}"
        if trial.kind == "SIGTERM":
            assert run.code in (0, 128 + signal.SIGTERM, -signal.SIGTERM), run.complaint
            assert "Traceback" not in run.complaint, run.complaint
        return run.code != 0
    if trial.kind == "one of two processes":
        return _lose_a_process(chance, run, moment)
    effects = {"power cut": "power", "full disk": "full"}
    fault = _fault(chance, reference, effects.get(trial.kind, "kill"))
    run.start(fault)
    assert run.wait(), f"hangs after {fault}"
    run.story.append(f"{fault}: {run.code}")
    if run.code == 0:
        return False
    if fault.effect == "full":
        assert run.code == 2, run.complaint
        assert re.fullmatch(r"error: .*\n", run.complaint), run.complaint
    else:
        assert run.code == -signal.SIGKILL, run.complaint
    return True


def _fault(chance: random.Random, reference: Reference, effect: str) -> Fault:
    possible = [
        key
        for key in reference.operations
        if effect != "full" or key[0] in ("open", "write", "fsync")
    ]
    operation, kind = chance.choice(possible)
    number = chance.randint(1, reference.operations[operation, kind])
    moments = ["before", "after"] if operation != "write" else ["before", "within", "after"]
    return Fault(effect, operation, kind, number, chance.choice(moments), chance.getrandbits(32))


def _lose_a_process(chance: random.Random, run: Run, moment: float) -> bool:
    victims = chance.choice([(0,), (1,), (0, 1)])
    run.start()
    if run.wait(moment):
        return False
    run.story.append(f"SIGKILL of {victims} after {moment:.3f} s")
    for rank in victims:
        os.kill(run.processes[rank].pid, signal.SIGKILL)
    run.processes[victims[0]].join()
    # Before the processes have met, nobody tells one that the other is gone: here is no launcher.
    run.wait(PATIENCE / 10)
    run.kill()
    return any(process.exitcode != 0 for process in run.processes)


def _nothing_survives(run: Run) -> None:
    """Workers of the loader too: they look for their parent every five seconds."""
    end = time.monotonic() + PATIENCE
    for process in run.processes:
        while group_exists(process.pid):
            assert time.monotonic() < end, "something survives"
            time.sleep(0.01)


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _nothing_is_lost(run: Run) -> None:
    """The newest checkpoint that loads knows at least what the last completed save knew."""
    saved = [_progress(path) for path in run.folder.glob("process*/saves/*")]
    found = [_progress(path) for path in run.run_dir.glob("checkpoints/*.ckpt")]
    missing = (-1, -1)
    best = max(found, default=missing)
    assert best >= max(saved, default=missing), "a completed checkpoint is lost"


def _progress(path: Path) -> tuple[int, int]:
    """Optimiser steps, then whole epochs: one saved after the epoch's validation knows more."""
    try:
        checkpoint = torch.load(path, weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError):
        return -1, -1
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    return int(checkpoint["global_step"]), int(epochs)


def ending(run_dir: Path) -> dict[str, Any]:
    """What must be equal in the folders of two runs, as nested plain containers."""
    files = [path for path in run_dir.rglob("*") if path.is_file() and path.parent.name != ".hydra"]
    return {
        "checkpoints": {path.name: _essence(path) for path in files if _is_kept(path)},
        "history": history(run_dir),
        "result": (run_dir / "metrics.json").read_text(),
        "confusion": (run_dir / "confusion.json").read_text(),
        "curves": curves(run_dir),
        "files": {re.sub(r"tfevents.*", "", p.name) for p in files if "last-" not in p.name},
    }


def _state(path: Path) -> dict[str, Any]:
    """Weights and optimiser, also where the last steps of a run have no checkpoint."""
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def _is_kept(path: Path) -> bool:
    """Which earlier checkpoints stand beside them depends on what was written before a kill."""
    return path.name in ("best.ckpt", "last.ckpt")


def _essence(path: Path) -> dict[str, Any]:
    checkpoint = torch.load(path, weights_only=True)
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "current_model_state")
    return {part: checkpoint[part] for part in (*parts, "global_step") if part in checkpoint}
