"""scripts/train.py as a user runs it."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import TINY, Script
from tests.forks import Forks
from tests.training.runs import history


def runs(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("logs/train/*/*/metrics.json"))


def test_a_run_ends_with_its_result_and_where_to_look(process: Script, tmp_path: Path) -> None:
    done = process("train", *TINY)
    assert done.returncode == 0, done.stderr
    (run,) = runs(tmp_path)
    result = json.loads((run / "metrics.json").read_text())
    assert f"{result['test/top1']:.2%}".replace("%", " %") in done.stdout
    assert str(run.relative_to(tmp_path)) in done.stdout
    assert f"scripts/dashboard.py {run.relative_to(tmp_path)}" in done.stdout
    assert done.stderr == ""


def test_a_run_outlives_its_pager(forks: Forks, tmp_path: Path) -> None:
    """As `train.py | head`, and as a terminal that is closed."""
    closed = "import os; end, ours = os.pipe(); os.close(end); os.dup2(ours, 1); os.dup2(ours, 2)"
    done = forks.run("train", [*TINY, "hydra.run.dir=mine"], tmp_path, before=closed)
    assert done.returncode == 0
    assert json.loads((tmp_path / "mine" / "status.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_the_default_experiment_reaches_its_score(script: Script, tmp_path: Path) -> None:
    done = script("train", "accelerator=cpu")
    assert done.returncode == 0, done.stderr
    (run,) = runs(tmp_path)
    assert json.loads((run / "metrics.json").read_text())["test/top1"] >= 0.985


def test_output_in_a_file_is_plain_and_short(script: Script) -> None:
    done = script("train", *TINY, "trainer.max_epochs=3", "test=false")
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    assert len(re.findall(r"^epoch \d/3  ", done.stdout, flags=re.M)) == 3


def test_the_run_folder_says_what_was_asked_for(script: Script, tmp_path: Path) -> None:
    done = script("train", *TINY, "optimizer.lr=0.02", "test=false")
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("logs/train/none/*/.hydra")
    assert "optimizer.lr=0.02" in yaml.safe_load((folder / "overrides.yaml").read_text())
    assert yaml.safe_load((folder / "config.yaml").read_text())["optimizer"]["lr"] == 0.02
    assert (folder / "hydra.yaml").exists()
    environment = json.loads((folder.parent / "environment.json").read_text())
    assert "optimizer.lr=0.02" in environment["command"]


def test_a_run_resumes_in_its_folder(script: Script, tmp_path: Path) -> None:
    folder = "hydra.run.dir=logs/mine"
    assert script("train", *TINY, folder, "test=false").returncode == 0
    done = script("train", *TINY, folder, "resume=auto", "trainer.max_epochs=3")
    assert done.returncode == 0, done.stderr
    assert "continues from logs/mine/checkpoints/last.ckpt" in done.stdout
    assert len(re.findall(r"^epoch ", done.stdout, flags=re.M)) == 1
    steps = [
        row.split(",")[0] for row in (tmp_path / "logs/mine/metrics.csv").read_text().split()[1:]
    ]
    assert [step for step in steps if int(step) < 18] == [str(step) for step in range(18)]


@pytest.mark.slow
def test_two_processes_train_as_one(script: Script, tmp_path: Path) -> None:
    same = (
        *TINY,
        "callbacks=[essential,pictures]",
        "model.dropout=0",
        "data.pad=2",
        "data.flip=true",
        "data.val_size=21",  # odd: one process sees one image more
        "data.test_size=33",
    )
    ends, results = [], []
    for accelerator in ("cpu", "ddp_cpu"):
        folder = f"logs/{accelerator}"
        done = script("train", *same, f"accelerator={accelerator}", f"hydra.run.dir={folder}")
        assert done.returncode == 0, done.stderr
        last = tmp_path / folder / "checkpoints/last.ckpt"
        ends.append(torch.load(last, weights_only=True)["state_dict"])
        results.append(json.loads((tmp_path / folder / "metrics.json").read_text()))
        confusion = json.loads((tmp_path / folder / "confusion.json").read_text())
        assert sum(map(sum, confusion["matrix"])) == 33
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-5)
    assert results[0] == pytest.approx(results[1], rel=1e-3)


@pytest.mark.slow
def test_a_batch_that_cannot_be_divided_is_refused(script: Script, tmp_path: Path) -> None:
    done = script("train", *TINY, "accelerator=ddp_cpu", "data.batch_size=9")
    assert done.returncode == 2
    assert "data.batch_size=9" in done.stderr
    assert "8 or 10" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_sweep_of_several_processes_runs_each_job_once(script: Script, tmp_path: Path) -> None:
    rates = ("optimizer.lr=0.01,0.02", "trainer.max_epochs=1")
    done = script("train", "--multirun", *TINY, "accelerator=ddp_cpu", *rates)
    assert done.returncode == 0, done.stderr
    for number, rate in enumerate((0.01, 0.02)):
        (run,) = tmp_path.glob(f"logs/train/none/*/{number}")
        # Of one training: a second one in the same folder would have been refused.
        assert [row["step"] for row in history(run) if row["train/loss"]] == list("012345")
        config = yaml.safe_load((run / ".hydra" / "config.yaml").read_text())
        assert config["optimizer"]["lr"] == rate
        assert float(history(run)[0]["lr"]) == pytest.approx(rate, rel=1e-6)
    assert len(list(tmp_path.glob("logs/train/*/*"))) == 1
    assert done.stdout.count("8 = 2 x 4 on cpu") == 2


@pytest.mark.faults
def test_a_failed_job_of_several_processes_ends_its_sweep(script: Script) -> None:
    bad = ("trainer.max_epochs=1", "callbacks.best_checkpoint.monitor=val/nothing")
    done = script("train", "--multirun", *TINY, "accelerator=ddp_cpu", *bad, "seed=0,1")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "val/nothing" in line


def test_a_sweep_runs_each_job_once(script: Script, tmp_path: Path) -> None:
    done = script("train", "--multirun", *TINY, "trainer.max_epochs=1", "optimizer.lr=0.01,0.02")
    assert done.returncode == 0, done.stderr
    found = tmp_path.glob("logs/train/none/*/*/.hydra/config.yaml")
    rates = sorted(yaml.safe_load(path.read_text())["optimizer"]["lr"] for path in found)
    assert rates == [0.01, 0.02]


@pytest.mark.slow
@pytest.mark.parametrize("debug", ["fast", "overfit", "profile"])
def test_debug_presets_run(debug: str, script: Script) -> None:
    tiny = [
        override
        for override in TINY
        if "log_every" not in override and "max_epochs" not in override
    ]
    few = ["trainer.max_epochs=3"] if debug == "overfit" else []
    done = script("train", *tiny, f"debug={debug}", *few)
    assert done.returncode == 0, done.stderr
