"""The folder's name that all processes of a run share."""

import re

import pytest
from omegaconf import OmegaConf
from torch.distributed import TCPStore

from vgglab.config import started
from vgglab.config.file_rules import for_the_command_line

OF_A_JOB = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_STEP_ID")
OF_TORCHRUN = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE")


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*OF_A_JOB, *OF_TORCHRUN, "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(started.os, "isatty", lambda descriptor: False)


def name() -> str:
    started.register()
    return str(OmegaConf.create({"dir": "${started:}"}).dir)


def test_it_is_the_time() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", name())


def test_a_configuration_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that was composed here and runs as a job there."""
    started.register()
    config = OmegaConf.create({"dir": "${started:}"})
    here = config.dir
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert config.dir == here


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLURM_JOB_ID": "7"}, "slurm-7"),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, "slurm-7"),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "2"}, "slurm-7.2"),
        (
            {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"},
            "slurm-7_3",
        ),
    ],
)
def test_in_a_slurm_job_it_is_the_jobs_number(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert name() == expected


@pytest.mark.parametrize(
    ("shell", "terminal"), [("bash", False), ("interactive", False), ("notebook", True)]
)
def test_two_runs_in_one_interactive_job_are_two(
    shell: str, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NAME", shell)
    monkeypatch.setattr(started.os, "isatty", lambda descriptor: terminal)
    assert not name().startswith("slurm")


def test_torchruns_processes_agree_also_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(agent.port))
    times = iter(["first", "second"])
    monkeypatch.setattr(started.time, "strftime", lambda layout: next(times))
    assert name() == name() == "first"


def test_files_may_name_folders_with_it() -> None:
    assert not list(for_the_command_line({"hydra": {"run": {"dir": "logs/${started:}"}}}, ()))
