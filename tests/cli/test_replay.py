"""scripts/replay.py as a user runs it."""

import json
from pathlib import Path

import pytest

from tests.conftest import TINY, Script


@pytest.mark.slow
def test_a_folder_alone_is_replayed(script: Script, tmp_path: Path) -> None:
    assert script("train", *TINY, "hydra.run.dir=logs/mine").returncode == 0
    done = script("replay", "logs/mine")
    assert done.returncode == 0, done.stderr
    assert "bit for bit the same: " in done.stdout
    assert "no differences in versions, code and hardware" in done.stdout
    (again,) = tmp_path.glob("logs/replay/mine/*/replay.json")
    assert json.loads(again.read_text())["same"] is True


@pytest.mark.slow
def test_a_run_that_does_not_repeat_itself_exits_with_1(script: Script, tmp_path: Path) -> None:
    run = tmp_path / "logs/seed=0, mine"
    done = script("train", *TINY, "trainer.max_epochs=1", "hydra.run.dir='logs/seed=0, mine'")
    assert done.returncode == 0, done.stderr
    config = run / ".hydra/config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1", 1))
    done = script("replay", f"run={run}", "hydra.run.dir=logs/again")
    assert done.returncode == 1, done.stderr
    assert "NOT the same: " in done.stdout
    assert json.loads((tmp_path / "logs/again/replay.json").read_text())["same"] is False


@pytest.mark.faults
def test_two_processes_repeat_themselves(script: Script) -> None:
    tiny = (*TINY, "accelerator=ddp_cpu", "trainer.max_epochs=1", "hydra.run.dir=logs/mine")
    assert script("train", *tiny).returncode == 0
    done = script("replay", "logs/mine")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bit for bit the same: ") == 1


@pytest.mark.parametrize("given", [[], ["nowhere"]])
def test_nothing_to_replay_is_bad_input(given: list[str], script: Script, tmp_path: Path) -> None:
    done = script("replay", *given)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert not list(tmp_path.iterdir())
