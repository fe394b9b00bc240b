"""One of the processes of a run dies or hangs, and all end, each with a line that says why."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, TINY, Script
from vgglab.training.checkpointing import checkpoint_to_resume

pytestmark = pytest.mark.faults

TIMEOUT = 10  # accelerator.timeout_seconds
# Beyond it: torchrun gives a stopped process 30 s, and this machine is busy.
LAUNCH = 90
SETTINGS = (
    *TINY,
    "trainer.max_epochs=100000",
    "scheduler=constant",
    "accelerator=ddp_cpu",
    f"accelerator.timeout_seconds={TIMEOUT}",
    "hydra.run.dir=run",
)
NODE = r"\(node \S+\)"
SILENT = rf"rank {{rank}} of 2 {NODE} gives no sign of life since epoch \d+, .*\d+ s ago; {{again}}"
_AGENT = b"torch.distributed.run"
AGAIN = "resume=auto continues from the last checkpoint"


@dataclass
class Run:
    """scripts/train.py in two processes that `launcher` starts."""

    launcher: str
    folder: Path
    process: "subprocess.Popen[bytes] | None" = None

    def start(self, *overrides: str, environment: dict[str, str] | None = None) -> None:
        command = [sys.executable]
        if self.launcher == "torchrun":
            command += ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
            command += ["--redirects=2", "--log-dir=logs"]  # apart from torchrun's own report
        with (self.folder / "stderr").open("wb") as errors:
            self.process = subprocess.Popen(
                [*command, str(ROOT / "scripts/train.py"), *SETTINGS, *overrides],
                cwd=self.folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path()}
                | (environment or {}),
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )

    def ranks(self) -> dict[int, int]:
        """Process ids by rank."""
        found: dict[int, int] = {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                variables = (process / "environ").read_bytes().split(b"\0")
                here = (process / "cwd").readlink() == self.folder
                if here and b"hydra.run.dir=run" in words and _AGENT not in words:
                    rank = dict(v.partition(b"=")[::2] for v in variables).get(b"LOCAL_RANK", b"0")
                    found.setdefault(int(rank), int(process.name))
        return found

    def train_a_while(self) -> None:
        """Until there is a checkpoint, and each process has given a sign of life."""
        end = time.monotonic() + LAUNCH
        while not (self.folder / "run/checkpoints/last.ckpt").exists():
            assert self.process is not None
            assert self.process.poll() is None, self.errors()
            assert time.monotonic() < end, "it does not begin"
            time.sleep(0.1)
        time.sleep(2)

    def end(self) -> int:
        """The exit code, once all processes are gone."""
        assert self.process is not None
        code = self.process.wait(TIMEOUT + LAUNCH)
        end = time.monotonic() + TIMEOUT
        while self.ranks():
            assert time.monotonic() < end, f"a process survives: {self.errors()}"
            time.sleep(0.1)
        return code

    def errors(self) -> str:
        """What the processes wrote, all into one file, or by torchrun each into its own."""
        if self.launcher == "torchrun":
            files = sorted(self.folder.glob("logs/*/attempt_0/*/stderr.log"))
            return "".join(path.read_text() for path in files)
        return (self.folder / "stderr").read_text()

    def kill(self) -> None:
        for pid in self.ranks().values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def python_path() -> str:
    return os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])


@pytest.fixture(params=["lightning", "torchrun"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    run = Run(request.param, tmp_path)
    yield run
    run.kill()


def assert_said(run: Run, *patterns: str, least: int = 1) -> None:
    """Each line of the processes is one of these errors, and there are at least so many."""
    text = run.errors()
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert least <= len(lines) <= 2, text
    for line in lines:
        assert any(re.fullmatch(f"error: {pattern}", line) for pattern in patterns), text


def assert_continues(run: Run) -> None:
    start = checkpoint_to_resume("auto", run.folder / "run/checkpoints")
    assert start is not None
    assert start.step > 0


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process(rank: int, run: Run) -> None:
    run.start()
    run.train_a_while()
    os.kill(run.ranks()[rank], signal.SIGKILL)
    assert run.end() != 0
    by_name = SILENT.format(rank=rank, again=AGAIN)
    ended = rf"rank {rank} of 2 {NODE} ended by SIGKILL at epoch \d+, .*; {AGAIN}"
    launcher = rf"process \d+, which started this one, is gone; {AGAIN}"
    assert_said(run, by_name, ended, launcher)
    assert_continues(run)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_process(rank: int, run: Run) -> None:
    run.start()
    run.train_a_while()
    os.kill(run.ranks()[rank], signal.SIGSTOP)
    assert run.end() != 0
    keeper = rf"rank 0 of 2, or its node, is gone: nothing answers at .*; {AGAIN}"
    assert_said(run, SILENT.format(rank=rank, again=AGAIN), *([keeper] if rank == 0 else []))
    assert_continues(run)


def test_a_process_that_sleeps(run: Run, script: Script) -> None:
    run.start(*broken("Sleeps", "rank=1"))
    assert run.end() != 0
    asleep = rf"rank 1 of 2 {NODE} hangs in faults/broken.py:\d+ \(on_train_batch_start\) since"
    assert_said(run, rf"{asleep} epoch 1, batch 2, \d+ s ago; .*{AGAIN}", least=2)
    assert_continues(run)
    done = script("train", *SETTINGS, "accelerator=cpu", "resume=auto", "trainer.max_epochs=3")
    assert done.returncode == 0, done.stderr
    last = torch.load(run.folder / "run/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 18


def test_a_full_disk_at_the_checkpoint(run: Run) -> None:
    run.start(*broken("FullDisk", "run_dir=run"))
    assert run.end() != 0
    full = r".*/run/\S+: No space left on device.*"  # the checkpoint, or the history's next row
    assert_said(run, full, f"rank 0 of 2 {NODE}: {full}")
    assert_continues(run)


def test_a_folder_that_is_read_only(run: Run, read_only: Callable[[Path], None]) -> None:
    read_only(run.folder / "run")
    run.start()
    assert run.end() != 0
    refused = r"cannot write into the run folder .*run.*: .*Read-only file system.*"
    assert_said(run, refused, f"rank 0 of 2 {NODE}: {refused}")


@pytest.mark.parametrize("run", ["lightning"], indirect=True)
def test_a_port_in_use(run: Run) -> None:
    """torchrun itself fails there, before any process of the run begins."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run.start(environment={"MASTER_PORT": str(port)})
        assert run.end() != 0
    assert_said(run, rf"\S+:{port} is in use by another program; choose another MASTER_PORT")


def broken(name: str, argument: str) -> tuple[str, ...]:
    return (
        "allowed_targets=[tests]",
        f"+callbacks.broken._target_=tests.faults.broken.{name}",
        f"+callbacks.broken.{argument}",
    )


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], None]]:
    mounted: list[Path] = []

    def make(folder: Path) -> None:
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("nothing can be mounted here")
        mounted.append(folder)

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
