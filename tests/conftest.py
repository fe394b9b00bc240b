"""Shared by all tests: small composed jobs, and scripts run as a user runs them."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from tests.forks import Finished, Forks, script_environment

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
Script = Callable[..., Finished]


@lru_cache(maxsize=64)
def _composed_once(name: str, *overrides: str) -> DictConfig:
    """Many tests begin with the same configuration, and Hydra takes a third of a second for it."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, overrides=list(overrides))


@pytest.fixture
def composed(tmp_path: Path) -> Compose:
    """conf/NAME.yaml with overrides, and a run folder under tmp_path."""

    def make(name: str, *overrides: str, run_dir: Path = tmp_path / "run") -> DictConfig:
        named = ("name=test",) if name == "train" else ()
        config = deepcopy(_composed_once(name, *named, *overrides))
        config.run_dir = str(run_dir)
        return config

    return make


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with Forks(tmp_path_factory.mktemp("output")) as running:
        yield running


@pytest.fixture
def script(forks: Forks, tmp_path: Path) -> Script:
    """Run scripts/NAME.py in an empty folder, in a fork; returns how it ended, with its output."""

    def run(name: str, *arguments: str) -> Finished:
        return forks.run(name, arguments, tmp_path)

    return run


@pytest.fixture
def process(tmp_path: Path) -> Script:
    """As `script`, but in a process of its own, as a user does: once for each script."""

    def run(name: str, *arguments: str) -> Finished:
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments],
            cwd=tmp_path,
            env=script_environment(),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run
