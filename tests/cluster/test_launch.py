"""How commands come again, and how a sweep's jobs are run."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.conf import ConfigSourceInfo
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from tests.conftest import ROOT
from vgglab.cluster import launch
from vgglab.cluster.launch import resume_setting, run_apart, use_interface_of_master

COMES_AGAIN = ("SLURM_JOB_ID", "SUBMITIT_EXECUTOR", "TORCHELASTIC_RESTART_COUNT")
IS_AGAIN = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*COMES_AGAIN, *IS_AGAIN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "isatty", lambda descriptor: False)


@pytest.mark.parametrize("variable", COMES_AGAIN)
def test_a_command_that_comes_again_continues_by_itself(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resume_setting(None, tmp_path) is None
    monkeypatch.setenv(variable, "1")
    assert resume_setting(None, tmp_path) == "auto"
    assert resume_setting("mine.ckpt", tmp_path) == "mine.ckpt"


@pytest.mark.parametrize("variable", IS_AGAIN)
def test_a_requeued_job_begins_with_a_named_file_only_once(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    assert resume_setting("mine.ckpt", tmp_path) == "mine.ckpt"  # it was ended before a step
    (tmp_path / "last.ckpt").touch()
    assert resume_setting("mine.ckpt", tmp_path) == "auto"
    monkeypatch.setenv(variable, "0")
    assert resume_setting("mine.ckpt", tmp_path) == "mine.ckpt"


def test_the_first_start_by_torchrun_is_a_new_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert resume_setting(None, tmp_path) is None


def test_a_sweeps_job_is_the_command_without_the_sweep(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By its own overrides; what Hydra was told of the sweep is left out, other settings stay."""
    monkeypatch.setattr(sys, "argv", ["scripts/train.py", "--multirun", "seed=1,2"])
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(
            "train",
            overrides=[
                "seed=2",
                "hydra/launcher=basic",
                "hydra.sweep.dir=elsewhere",
                "hydra.verbose=true",
            ],
            return_hydra_config=True,
        )
    source = ConfigSourceInfo(path=str(tmp_path), schema="file", provider="command-line")
    with open_dict(config):
        config.hydra.job.update(num=1, config_name="train")
        config.hydra.runtime.config_sources = [source]
    monkeypatch.setattr(HydraConfig.instance(), "cfg", config)
    script, *arguments = launch._command(Path("logs/a=b/1"))[1:]
    assert script == os.path.abspath("scripts/train.py")
    assert arguments == [
        *("--config-name", "train", "--config-dir", str(tmp_path)),
        *("seed=2", "hydra.verbose=true", "hydra.job.num=1", "hydra.run.dir='logs/a=b/1'"),
    ]


@pytest.mark.parametrize(("code", "leaves"), [("exit 3", 3), ("kill -9 $$", 137)])
def test_a_jobs_failure_is_the_sweeps(
    code: str, leaves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_command", lambda run_dir: ["sh", "-c", code])
    with pytest.raises(SystemExit) as left:
        run_apart(Path())
    assert left.value.code == leaves


@pytest.mark.parametrize(
    ("first_node", "expected"), [("10.0.0.1", "eth1"), ("127.0.1.1", "eth0"), ("nowhere", "eth0")]
)
def test_gloo_takes_the_interface_that_leads_to_the_first_node(
    first_node: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/cluster/test_nodes.py meets over it."""
    interfaces = {"lo": "127.0.0.1", "ib0": None, "eth0": "192.168.0.2", "eth1": "10.0.0.2"}
    routes = {"10.0.0.1": "10.0.0.2", "127.0.1.1": "127.0.0.1", launch._ELSEWHERE: "192.168.0.2"}
    monkeypatch.setattr(launch.socket, "if_nameindex", lambda: list(enumerate(interfaces)))
    monkeypatch.setattr(launch, "_address_of", interfaces.get)
    monkeypatch.setattr(launch, "_own_address", routes.get)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "undone afterwards")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    environment = SimpleNamespace(main_address=first_node)
    trainer: Any = SimpleNamespace(
        num_nodes=2, strategy=SimpleNamespace(cluster_environment=environment)
    )
    use_interface_of_master(trainer)
    assert os.environ["GLOO_SOCKET_IFNAME"] == expected


def test_gloo_keeps_the_interface_that_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    strategy = SimpleNamespace(cluster_environment=SimpleNamespace(main_address="10.0.0.1"))
    use_interface_of_master(SimpleNamespace(num_nodes=2, strategy=strategy))  # type: ignore[arg-type]
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"
