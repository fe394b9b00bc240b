"""hydra/launcher=local: submitit without SLURM. Here for its minutes, not for the cluster."""

import os
from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY
from tests.slurm.cluster import HANGS
from tests.slurm.jobs import SPY, submitting, told

pytestmark = pytest.mark.slurm


def test_submitit_starts_the_processes_of_each_run(tmp_path: Path) -> None:
    """The first run trains in two processes; the second one fails, and so does the command."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    sweep = (*TINY, *SPY, "accelerator=ddp_cpu", "+callbacks.spy.failing_rank=null,1")
    one_by_one = ("hydra.sweeper.max_batch_size=1", "trainer.max_epochs=1")
    with submitting("local", environment, tmp_path, *sweep, *one_by_one) as process:
        printed, _ = process.communicate(timeout=HANGS)
    well, failed = sorted(tmp_path.glob("logs/train/none/*/[01]"))
    starts = [start for own in told(well).values() for start in own]
    assert [start["world_size"] for start in starts] == [2, 2]
    assert (well / "metrics.json").exists()
    assert process.returncode == 1
    assert "the sum is wrong" in printed
    assert not (failed / "metrics.json").exists()
