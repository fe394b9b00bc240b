"""TensorBoard on a folder, on loopback."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Compose
from vgglab.config.jobs import DashboardConfig
from vgglab.config.schema import parse
from vgglab.dashboard import serve
from vgglab.errors import InputError
from vgglab.reporting.tensorboard import TensorBoard


def taken() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_the_port_is_the_next_free_one() -> None:
    with taken() as first:
        port = first.getsockname()[1]
        found = serve.free_port(port)
        assert port < found < port + 20
        socket.create_server(("127.0.0.1", found)).close()


def test_no_free_port_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_PORTS", 1)
    with taken() as first:
        port = first.getsockname()[1]
        with pytest.raises(InputError, match=f"port={port}: none of {port} to {port} is free"):
            serve.free_port(port)


def test_no_folder_is_bad_input(composed: Compose, tmp_path: Path) -> None:
    job = parse(composed("dashboard", f"logdir={tmp_path}/nowhere"), DashboardConfig)
    with pytest.raises(InputError, match=r"logdir=.*nowhere: no such folder"):
        serve.serve(job)
    with pytest.raises(InputError, match="TensorBoard takes one folder"):
        parse(composed("dashboard", f"logdir=[{tmp_path},{tmp_path}]"), DashboardConfig)


def get(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return json.load(answer)


def listening(port: int) -> set[str]:
    """The addresses, as /proc/net writes them, where something of this machine listens."""
    rows = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if Path(table).exists():
            rows += [line.split() for line in Path(table).read_text().splitlines()[1:]]
    found = [(row[1].split(":"), row[3]) for row in rows]
    return {host for (host, at), state in found if int(at, 16) == port and state == "0A"}


@pytest.fixture
def killed_and_resumed(tmp_path: Path) -> Path:
    """A run whose first attempt got further than its last checkpoint, and so its curves."""
    run = tmp_path / "logs/a=b, c"
    for resume_step, value in ((None, 1.0), (1500, 2.0)):
        board = TensorBoard(str(run), resume_step=resume_step)
        for step in range(resume_step or 0, 2000 if resume_step else 1800):
            board.log_metrics({"train/loss": value}, step)
        board.finalize("success")
    return run


@pytest.mark.slow
def test_the_script_serves_all_of_a_resumed_run_on_loopback_and_ends_with_ctrl_c(
    killed_and_resumed: Path, tmp_path: Path
) -> None:
    with taken() as first:
        port = first.getsockname()[1]
        with (
            subprocess.Popen(
                [sys.executable, ROOT / "scripts/dashboard.py", "logs", f"port={port}"],
                cwd=tmp_path,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                # Processes of a background job ignore it, and so do those that they start.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            ) as process,
            ExitStack() as ended,
        ):
            ended.callback(process.kill)
            assert process.stdout is not None
            said = ""
            while "Ctrl-C" not in said:
                said += process.stdout.readline()
                assert process.poll() is None
            assert f"port {port} is taken" in said
            (address,) = re.findall(r"http://127\.0\.0\.1:\d+/", said)
            assert f"ssh -L {address.split(':')[2][:-1]}:127.0.0.1:" in said
            assert listening(int(address.split(":")[2][:-1])) <= {"0100007F"}
            end = time.monotonic() + 60
            while not (runs := get(f"{address}data/runs")):
                assert time.monotonic() < end
                time.sleep(0.2)
            assert runs == ["a=b, c/tensorboard"]
            query = "run=a%3Db%2C%20c/tensorboard&tag=train/loss"
            points: list[Any] = []
            while len(points) < 2000 and time.monotonic() < end:
                points = get(f"{address}data/plugin/scalars/scalars?{query}")
            assert [(step, value) for _, step, value in points] == [
                (step, 1.0 if step < 1500 else 2.0) for step in range(2000)
            ]
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert process.stderr is not None
            told = process.stderr.read()
            assert "Traceback" not in told
            assert "NOTE" not in told
    assert list(tmp_path.iterdir()) == [tmp_path / "logs"]
