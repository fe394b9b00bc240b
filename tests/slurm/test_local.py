"""hydra/launcher=local: submitit without SLURM. Here for its minutes, not for the cluster."""

import os
from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY
from tests.slurm.jobs import SPY, ends_well, submitting, told

pytestmark = pytest.mark.slurm


def test_submitit_starts_the_processes_of_a_run(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    overrides = (*TINY, *SPY, "accelerator=ddp_cpu", "trainer.max_epochs=1")
    with submitting("local", environment, tmp_path, *overrides) as process:
        ends_well(process)
    (run,) = tmp_path.glob("logs/train/none/*/0")
    starts = [start for own in told(run).values() for start in own]
    assert [start["world_size"] for start in starts] == [2, 2]
    assert (run / "metrics.json").exists()
