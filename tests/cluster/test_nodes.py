"""One run on two nodes, started by torchrun on each."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.cluster.nodes import Node, two_nodes, unavailable
from tests.conftest import ROOT, TINY, Compose
from vgglab.config.schema import TrainConfig, parse
from vgglab.training.checkpointing import checkpoint_to_resume
from vgglab.training.run import train

pytestmark = pytest.mark.faults

HANGS = 120  # seconds
TIMEOUT = 10  # accelerator.timeout_seconds
PORT = 29400
MEETINGS = {
    "c10d": ("--rdzv-backend=c10d", "--rdzv-endpoint={first}:{port}"),
    "static": ("--master-addr={first}", "--master-port={port}", "--node-rank={number}"),
}
SAME = (
    *TINY,
    "callbacks=[essential,pictures]",
    "model.dropout=0",
    "data.pad=2",
    "data.flip=true",
    "data.val_size=21",  # one process sees one image more
    "data.test_size=33",
)


class Torchrun:
    """`torchrun` on two nodes, each with its own working folder's name in `folder`."""

    def __init__(self, nodes: tuple[Node, Node], folder: Path) -> None:
        self.nodes = nodes
        self.folder = folder
        self.agents: list[subprocess.Popen[bytes]] = []

    def start(self, per_node: int, meeting: str, *overrides: str) -> None:
        for number, node in enumerate(self.nodes):
            where = {"first": self.nodes[0].name, "port": PORT}
            # Which interface leads to the other node is for the run to find out.
            environment = {k: v for k, v in os.environ.items() if k != "GLOO_SOCKET_IFNAME"}
            launch = [word.format(number=number, **where) for word in MEETINGS[meeting]]
            command = node.command(
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2"),
                *(f"--nproc-per-node={per_node}", *launch, "--redirects=2"),
                *(f"--log-dir=node{number}", str(ROOT / "scripts/train.py")),
                *(*overrides, "accelerator=ddp_cpu", f"accelerator.devices={per_node}"),
                "accelerator.num_nodes=2",
            )
            with (self.folder / f"output{number}").open("wb") as output:
                self.agents.append(
                    subprocess.Popen(
                        command,
                        cwd=self.folder,
                        env={**environment, "OMP_NUM_THREADS": "1"},
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                    )
                )

    def output(self, number: int) -> str:
        return (self.folder / f"output{number}").read_text()

    def errors(self, number: int) -> str:
        """What the run's processes of a node said, apart from torchrun's own report."""
        files = sorted(self.folder.glob(f"node{number}/*/attempt_0/*/stderr.log"))
        return "".join(path.read_text() for path in files)

    def workers(self, number: int) -> list[int]:
        """torchrun gives each a session of its own."""
        agent = self.agents[number].pid
        return [
            int(pid) for pid in Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
        ]

    def kill(self, number: int) -> None:
        with suppress(FileNotFoundError):
            for pid in self.workers(number):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.agents[number].kill()
        self.agents[number].wait()


@pytest.fixture
def torchrun(tmp_path: Path) -> Iterator[Torchrun]:
    if (reason := unavailable()) is not None:
        pytest.skip(reason)
    with two_nodes() as nodes:
        run = Torchrun(nodes, tmp_path)
        try:
            yield run
        finally:
            for number, _ in enumerate(run.agents):
                run.kill(number)


def test_two_nodes_train_as_one_process(
    torchrun: Torchrun, composed: Compose, tmp_path: Path
) -> None:
    train_and_compare(torchrun, 1, "c10d", composed, tmp_path)


@pytest.mark.parametrize(("per_node", "meeting"), [(2, "c10d"), (1, "static")])
def test_so_they_do_with_more_processes_or_a_static_meeting(
    per_node: int, meeting: str, torchrun: Torchrun, composed: Compose, tmp_path: Path
) -> None:
    train_and_compare(torchrun, per_node, meeting, composed, tmp_path)


def train_and_compare(
    torchrun: Torchrun, per_node: int, meeting: str, composed: Compose, tmp_path: Path
) -> None:
    torchrun.start(per_node, meeting, *SAME)
    for number, agent in enumerate(torchrun.agents):
        assert agent.wait(HANGS) == 0, torchrun.output(number)
    train(parse(composed("train", *SAME, run_dir=tmp_path / "alone"), TrainConfig))
    folders = [path.parent for path in tmp_path.glob("logs/train/none/*/metrics.json")]
    assert len(list(tmp_path.glob("logs/train/none/*"))) == len(folders) == 1
    compare(tmp_path / "alone", folders[0])


@pytest.mark.parametrize("gone", [0, 1])
def test_a_node_is_gone(gone: int, torchrun: Torchrun, tmp_path: Path) -> None:
    endless = ("trainer.max_epochs=100000", "scheduler=constant", "hydra.run.dir=run")
    torchrun.start(1, "c10d", *TINY, *endless, f"accelerator.timeout_seconds={TIMEOUT}")
    end = time.monotonic() + HANGS
    while not (tmp_path / "run/checkpoints/last.ckpt").exists():
        assert time.monotonic() < end, torchrun.errors(0)
        time.sleep(0.1)
    time.sleep(2)  # a sign of life
    torchrun.nodes[gone].unplug()
    torchrun.kill(gone)
    left = 1 - gone
    assert torchrun.agents[left].wait(TIMEOUT + HANGS) != 0
    name = rf"rank {gone} of 2 \(node {torchrun.nodes[gone].name}\)"
    cause = (
        r"rank 0 of 2, or its node, is gone: nothing answers at \S+;"
        if gone == 0
        else rf"{name} gives no sign of life since epoch \d+, .*"
    )
    lines = [x for x in torchrun.errors(left).splitlines() if x.startswith("error: ")]
    assert len(lines) == 1, torchrun.errors(left)
    assert re.match(f"error: {cause}", lines[0]), lines
    assert "Traceback" not in torchrun.errors(left)
    start = checkpoint_to_resume("auto", tmp_path / "run/checkpoints")
    assert start is not None
    assert start.step > 0


def compare(one: Path, other: Path) -> None:
    weights = [
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in (one, other)
    ]
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)
    results = [json.loads((run / "metrics.json").read_text()) for run in (one, other)]
    assert results[0] == pytest.approx(results[1], rel=1e-3)
    confusion = json.loads((other / "confusion.json").read_text())
    assert sum(map(sum, confusion["matrix"])) == 33
