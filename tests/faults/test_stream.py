"""Training from S3, whose server dies, and which is stopped and resumed: weights as from a folder.

`uv run pytest -m faults -n 0 tests/faults/test_stream.py`, a few minutes.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from tests.data.shards.s3_server import KEYS, S3Server
from tests.data.shards.small_shards import write_shards

pytestmark = pytest.mark.faults

_SECONDS = 300.0
_SETTINGS = (
    "experiment=none",
    "model=vgg11",
    "model.head=compact",
    "model.width=0.0625",
    "data=imagenet_stream",
    "data.image_size=32",
    "data.batch_size=8",
    "data.interleave=2",
    "optimizer.lr=0.01",
    "trainer.max_epochs=3",
    "callbacks=essential",
    "test=false",
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"), {"train": 403, "val": 20}, size=24)


@pytest.fixture
def server(shards: Path) -> Iterator[S3Server]:
    server = S3Server(shards)
    server.start()
    yield server
    server.kill()


def begin(run: Path, *settings: str) -> "subprocess.Popen[str]":
    script = str(ROOT / "scripts" / "train.py")
    output = (run.parent / f"{run.name}.log").open("a")
    return subprocess.Popen(
        [sys.executable, script, *_SETTINGS, f"hydra.run.dir={run}", *settings],
        env={**os.environ, **KEYS, "OMP_NUM_THREADS": "1"},
        cwd=run.parent,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(what: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + _SECONDS
    while not what():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def age(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0  # it may be replaced just now


def weights(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return found["state_dict"]


@pytest.mark.parametrize("accelerator", ["cpu", "ddp_cpu"])
def test_a_disturbed_run_from_s3_ends_as_one_from_the_folder(
    shards: Path, server: S3Server, tmp_path: Path, accelerator: str
) -> None:
    where = f"accelerator={accelerator}"
    calm = begin(tmp_path / "calm", where, f"data.uri={shards}", "data.num_workers=0")
    assert calm.wait(_SECONDS) == 0
    run = tmp_path / "disturbed"
    remote = (
        where,
        "data.uri=s3://bucket",
        f"data.endpoint={server.endpoint}",
        f"data.cache_dir={tmp_path / 'cache'}",
        "data.max_cache_size=0.1MB",  # of 0.7: each epoch fetches its chunks anew
        "resume=auto",
    )
    last = run / "checkpoints" / "last.ckpt"
    process = begin(run, *remote, "data.num_workers=2")
    wait_for(last.exists, process)
    server.kill()
    time.sleep(5)
    assert process.poll() is None
    then = age(last)
    server.start()
    wait_for(lambda: age(last) > then, process)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(_SECONDS) == 75
    step = torch.load(last, weights_only=True)["global_step"]
    assert step % 50, "it stopped at the end of an epoch"
    assert step < 150
    assert begin(run, *remote, "data.num_workers=0").wait(_SECONDS) == 0
    log = (tmp_path / "disturbed.log").read_text()
    assert log.count("trying again for") >= 1
    assert "back after" in log
    first, second = weights(tmp_path / "calm"), weights(run)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    size = sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*.bin"))
    assert size <= 100_000
