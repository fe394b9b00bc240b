"""Shared by all tests: small composed jobs, and scripts run as a user runs them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

# Tiny networks gain nothing from a second thread, and lose much to a busy neighbour.
torch.set_num_threads(1)

pytest_plugins = ["tests.faults.summary"]

ROOT = Path(__file__).parents[1]

# A network and images small enough that an epoch takes a fraction of a second.
TINY = (
    "experiment=none",
    "model=vgg11",
    "model.head=compact",
    "model.width=0.0625",
    "data=synthetic",
    "data.num_classes=4",
    "data.train_size=48",
    "data.val_size=20",
    "data.test_size=20",
    "data.batch_size=8",
    "optimizer.lr=0.01",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "accelerator=cpu",
    "callbacks=essential",
)

Compose = Callable[..., DictConfig]
Script = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def composed(tmp_path: Path) -> Compose:
    """conf/NAME.yaml with overrides, and a run folder under tmp_path."""

    def make(name: str, *overrides: str, run_dir: Path = tmp_path / "run") -> DictConfig:
        fixed = [f"run_dir={run_dir}", *(["name=test"] if name == "train" else [])]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose(name, overrides=[*fixed, *overrides])

    return make


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Run scripts/NAME.py in an empty folder; returns the finished process with its output."""

    def run(name: str, *arguments: str, timeout: float = 240) -> "subprocess.CompletedProcess[str]":
        environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
        return subprocess.run(
            [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments],
            cwd=tmp_path,
            env={**environment, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
