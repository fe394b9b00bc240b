"""What a process of submitit's jobs is told, and what it leaves for who submitted the job."""

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn

from tests.conftest import ROOT
from vgglab.cluster.preemption import REQUEUE
from vgglab.cluster.submitit_tasks import as_task, report_end
from vgglab.config.door import readable_errors
from vgglab.errors import InputError

RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """This process is the second of three of submitit's local job 40123; the job's folder."""
    for name in RANKS:
        monkeypatch.setenv(name, "")  # so that it is restored
    told = {"NTASKS": 3, "JOB_NUM_NODES": 1, "NODEID": 0, "LOCALID": 1, "GLOBALID": 1}
    for name, value in {**told, "JOB_ID": 40123}.items():
        monkeypatch.setenv(f"SUBMITIT_LOCAL_{name}", str(value))
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_FOLDER", str(tmp_path / "%j"))
    (tmp_path / "40123").mkdir()
    return tmp_path / "40123"


def outcomes(folder: Path) -> dict[str, Any]:
    return {path.name: pickle.loads(path.read_bytes()) for path in sorted(folder.iterdir())}


def test_a_process_is_told_its_rank(task: Path) -> None:
    with as_task():
        told = {name: os.environ[name] for name in RANKS}
    assert told == {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "NODE_RANK": "0",
        "WORLD_SIZE": "3",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "15123",
    }
    assert outcomes(task) == {}


def test_an_exception_ends_the_process_and_is_told_for_those_it_ends(
    task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (task / "40123_0_result.pkl").write_bytes(pickle.dumps(("success", 3)))
    with pytest.raises(SystemExit) as caught, as_task():
        raise ArithmeticError("the sum is wrong")
    assert caught.value.code == 1
    found = outcomes(task)
    assert found.pop("40123_0_result.pkl") == ("success", 3)  # had ended by itself
    assert found.keys() == {"40123_1_result.pkl", "40123_2_result.pkl"}
    for kind, trace in found.values():
        assert kind == "error"
        assert trace.endswith("ArithmeticError: the sum is wrong\n")
    assert "the sum is wrong" in capsys.readouterr().err


def test_bad_input_is_one_line_where_the_sweep_was_started(
    task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides=["seed=3"], return_hydra_config=True)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", config)
    monkeypatch.setenv("SUBMITIT_LOCAL_GLOBALID", "0")  # others let the first one speak first
    with pytest.raises(SystemExit) as caught, as_task(), readable_errors():
        raise InputError("data.root is not there")
    assert caught.value.code == 2
    for kind, result in outcomes(task).values():
        assert kind == "success"  # Hydra's word for: the job says by itself how it went
        assert isinstance(result, JobReturn)
        assert result.overrides == ["seed=3"]
        with pytest.raises(InputError, match=r"data\.root is not there"):
            _ = result.return_value


@pytest.mark.parametrize("code", [0, REQUEUE, -1])
def test_one_that_is_to_be_continued_leaves_no_outcome(task: Path, code: int) -> None:
    with pytest.raises(SystemExit), as_task():
        sys.exit(code)
    assert outcomes(task) == {}


def test_one_that_leaves_because_of_another_says_so_for_all(task: Path) -> None:
    report_end("rank 2 gives no sign of life")
    expected = ("error", "rank 2 gives no sign of life")
    assert list(outcomes(task).values()) == [expected] * 3


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    with pytest.raises(ArithmeticError), as_task():
        raise ArithmeticError
    report_end("it was the disk")
