"""How a run ended, and what to type next."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.pages import ENVIRONMENT, STATUS, Page, change, fill
from vgglab.reporting.outcome import outcome_banner, reproduction
from vgglab.reporting.record import read_record


def banner(run: Path, is_running: bool = False) -> str:
    return Page(outcome_banner(read_record(run), run, is_running)).text


def stop(run: Path, **status: Any) -> None:
    """A run that did not reach its end."""
    fill(run)
    (run / "metrics.json").unlink()
    change(run, "status", STATUS | {"ended": None} | status)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").touch()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"status": "stopped"}, "Stopped It was told to stop after step 9 (epoch 1)."),
        (
            {"status": "failed", "error": "no memory"},
            "Failed after step 9 (epoch 1) no memory It goes on",
        ),
        ({"status": "running"}, "Did not end It was killed, or its machine was lost, after step 9"),
    ],
)
def test_the_top_says_how_it_ended_and_how_it_goes_on(
    status: dict[str, Any], said: str, tmp_path: Path
) -> None:
    stop(tmp_path, **status)
    text = banner(tmp_path)
    assert text.startswith(said)
    assert text.endswith("resume=auto")
    (tmp_path / "checkpoints" / "last.ckpt").unlink()
    assert "resume" not in banner(tmp_path)
    assert banner(tmp_path, is_running=True).startswith("Still running")


def test_a_finished_run_is_not_to_be_resumed(tmp_path: Path) -> None:
    fill(tmp_path)
    assert banner(tmp_path) == "Finished in 1 h 6 min"
    (tmp_path / "status.json").unlink()  # as of runs before there was one
    assert banner(tmp_path) == "Finished"
    (tmp_path / "metrics.json").unlink()
    assert banner(tmp_path).startswith("Did not finish")


def test_before_the_first_step_there_is_no_step(tmp_path: Path) -> None:
    stop(tmp_path, status="failed", error="x")
    (tmp_path / "metrics.csv").unlink()
    assert "Failed before the first step was recorded" in banner(tmp_path)


@pytest.mark.parametrize(
    ("folder", "given"),
    [("plain", "plain"), ("a=b c", "'a=b c'"), ("it's", r"'it\'s'"), ("sweep/0", "sweep/0")],
)
def test_the_command_to_resume_is_this_runs_own(
    folder: str, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stop(tmp_path / folder, status="stopped")
    command = "python scripts/train.py --multirun 'optimizer.lr=0.1,0.2' hydra.sweep.dir=sweep"
    change(tmp_path / folder, "environment", ENVIRONMENT | {"command": command})
    overrides = "- optimizer.lr=0.1\n- 'name=\"a: b\"'\n- resume=old.ckpt\n- hydra.run.dir=x\n"
    (tmp_path / folder / ".hydra" / "overrides.yaml").write_text(overrides)
    text = banner(tmp_path / folder)
    words = shlex.split(text[text.index("uv run") :])
    assert words[:2] == ["uv", "run"]
    assert words[2:] == [
        "scripts/train.py",
        "optimizer.lr=0.1",
        'name="a: b"',
        f"hydra.run.dir={given}",
        "resume=auto",
    ]


def test_of_a_sweep_its_command_and_that_of_this_run_are_given(tmp_path: Path) -> None:
    fill(tmp_path)
    change(tmp_path, "environment", ENVIRONMENT | {"command": "python t.py -m optimizer.lr=1,2"})
    text = Page(reproduction(read_record(tmp_path), tmp_path)).text
    assert "uv run python t.py -m optimizer.lr=1,2" in text
    assert "uv run t.py optimizer.lr=0.05 'name=<u>'" in text


def test_a_strangers_command_may_be_anything(tmp_path: Path) -> None:
    stop(tmp_path, status="stopped")
    change(tmp_path, "environment", ENVIRONMENT | {"command": "it's \" odd train.py"})
    assert "resume=auto" in banner(tmp_path)
    assert "it's \" odd" in Page(reproduction(read_record(tmp_path), tmp_path)).text


def test_a_replay_is_not_to_be_resumed(tmp_path: Path) -> None:
    stop(tmp_path, status="stopped")
    change(tmp_path, "environment", ENVIRONMENT | {"command": "python scripts/replay.py run=x"})
    assert "resume" not in banner(tmp_path)


def test_only_a_training_can_be_replayed(tmp_path: Path) -> None:
    fill(tmp_path)
    assert "scripts/replay.py" in reproduction(read_record(tmp_path), tmp_path)
    (tmp_path / ".hydra" / "config.yaml").write_text("protocol: dense\n")
    assert "scripts/replay.py" not in reproduction(read_record(tmp_path), tmp_path)
