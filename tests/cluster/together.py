"""Processes that train together over gloo, as torchrun would start them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.conftest import ROOT


def train_together(
    folder: Path, jobs: Mapping[str, Sequence[str]], processes: int, timeout: float
) -> None:
    """Train jobs one after another, each in `folder/NAME`; fails with what a process printed."""
    (folder / "jobs.json").write_text(
        json.dumps({str(folder / name): overrides for name, overrides in jobs.items()})
    )
    port = _free_port()
    started = [_start(folder, rank, processes, port) for rank in range(processes)]
    end = time.monotonic() + timeout
    try:
        while any(process.poll() is None for process in started):
            assert time.monotonic() < end, f"longer than {timeout} s: {_printed(folder)}"
            assert not any(process.poll() for process in started), _printed(folder)
            time.sleep(0.1)
    finally:
        for process in started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert not any(process.returncode for process in started), _printed(folder)


def _start(folder: Path, rank: int, processes: int, port: int) -> "subprocess.Popen[bytes]":
    environment = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "GROUP_RANK": 0,
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_RUN_ID": "test",
        "OMP_NUM_THREADS": 1,
    }
    with (folder / f"output-{rank}").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.child", str(folder / "jobs.json")],
            cwd=ROOT,
            env={**os.environ, **{name: str(value) for name, value in environment.items()}},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _printed(folder: Path) -> str:
    return "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("output-*")))
