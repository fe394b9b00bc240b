"""What a user does and sees: scripts that wait for their jobs, and the folders of runs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.slurm.cluster import HANGS

SPY = ("+callbacks.spy._target_=tests.slurm.spy.Spy", "allowed_targets=[tests.slurm.spy]")


def command(script: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / script), *arguments]


@contextmanager
def submitting(
    launcher: str, environment: dict[str, str], folder: Path, *overrides: str
) -> "Iterator[subprocess.Popen[str]]":
    """scripts/train.py --multirun hydra/launcher=..., which waits for its jobs."""
    process = subprocess.Popen(
        command("train.py", "--multirun", f"hydra/launcher={launcher}", *overrides),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def ends_well(process: "subprocess.Popen[str]") -> None:
    """Wait for it."""
    printed, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 0, printed


def told(run: Path) -> dict[str, list[dict[str, Any]]]:
    """What the processes of a run told each time that they began to train."""
    return {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(run.glob("rank*.jsonl"))
    }


def await_step(run: Path, step: int, log: Callable[[], str]) -> None:
    """Wait until a run in that folder has taken so many steps.

    Args:
        log: what is to be read where it does not come so far.
    """
    end = time.monotonic() + HANGS
    history = run / "metrics.csv"
    while (taken := _lines(history) - 1) < step:
        assert time.monotonic() < end, f"only {taken} steps: {log()}"
        time.sleep(0.05)


def _lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def the_run(folder: Path) -> Path:
    """The only run below a folder, once it has begun."""
    end = time.monotonic() + HANGS
    while not (found := list(folder.glob("logs/train/*/*/*/rank0.jsonl"))):
        assert time.monotonic() < end, "it does not begin"
        time.sleep(0.1)
    (path,) = found
    return path.parent
