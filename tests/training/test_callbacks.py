"""Which checkpoints stay, and that a moved run keeps its best one."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.conftest import TINY, Compose
from tests.training.runs import assert_same_end
from vgglab.config.jobs import EvaluateConfig
from vgglab.config.schema import TrainConfig, parse
from vgglab.errors import InputError
from vgglab.evaluation.evaluate import evaluate
from vgglab.files import is_damaged
from vgglab.training.run import train


def run(composed: Compose, run_dir: Path, *overrides: str) -> dict[str, float]:
    return train(parse(composed("train", *TINY, *overrides, run_dir=run_dir), TrainConfig))


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


def test_the_last_checkpoints_predecessor_stays(composed: Compose, tmp_path: Path) -> None:
    run(composed, tmp_path, "trainer.max_epochs=4", "callbacks.last_checkpoint.keep=2")
    folder = tmp_path / "checkpoints"
    steps = [step_of(folder / f"{name}.ckpt") for name in ("last", "last-1", "last-2")]
    assert steps == [24, 18, 12]
    assert not (folder / "last-3.ckpt").exists()
    assert {f"{path.name}.sha256" for path in folder.glob("*.ckpt")} == {
        path.name for path in folder.glob("*.sha256")
    }


def test_milestones_stay_for_good(composed: Compose, tmp_path: Path) -> None:
    every = ("callbacks=[default,milestones]", "callbacks.milestones.every_n_epochs=2")
    run(composed, tmp_path, *every, "trainer.max_epochs=5", "test=false")
    kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("epoch-*.ckpt"))
    assert kept == ["epoch-0001.ckpt", "epoch-0003.ckpt"]


def test_the_k_best_stay_and_the_very_best_is_tested(composed: Compose, tmp_path: Path) -> None:
    best = (
        "callbacks.best_checkpoint.save_top_k=2",
        "callbacks.best_checkpoint.filename='best-{epoch}'",
        "callbacks.best_checkpoint.monitor=val/loss",
        "callbacks.best_checkpoint.mode=min",
        "data.noise=0.1",
        "optimizer.lr=0.05",
    )
    result = run(composed, tmp_path, *best, "trainer.max_epochs=4")
    kept = {path.name: path for path in (tmp_path / "checkpoints").glob("best-*.ckpt")}
    assert len(kept) == 2
    states = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["callbacks"]
    (state,) = [value for key, value in states.items() if "val/loss" in key]
    assert {Path(path).name for path in state["best_k_models"]} == set(kept)
    shown = evaluate(
        parse(composed("evaluate", f"checkpoint='{state['best_model_path']}'"), EvaluateConfig)
    )
    assert result == pytest.approx(shown, rel=1e-5)


def test_a_moved_run_keeps_its_best_checkpoint(composed: Compose, tmp_path: Path) -> None:
    undisturbed, before, after = tmp_path / "undisturbed", tmp_path / "before", tmp_path / "after"
    # The first validation is by definition the best: any later one is "worse".
    falling = (
        "callbacks.best_checkpoint.monitor=epoch",
        "callbacks.best_checkpoint.mode=min",
        "scheduler=constant",
    )
    run(composed, undisturbed, *falling, "trainer.max_epochs=4")
    run(composed, before, *falling, "trainer.max_epochs=2", "test=false")
    shutil.move(before, after)
    run(composed, after, *falling, "trainer.max_epochs=4", "resume=auto")
    assert step_of(after / "checkpoints/best.ckpt") == 6
    assert_same_end(undisturbed, after)


def test_a_run_that_stopped_early_stays_stopped(composed: Compose, tmp_path: Path) -> None:
    """Killed between its last epoch and its test, it must not train on when it is resumed."""
    early = (
        "callbacks=[default,early_stopping]",
        "callbacks.early_stopping.patience=1",
        "callbacks.early_stopping.min_delta=1.0",
        "trainer.max_epochs=9",
    )
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    run(composed, undisturbed, *early)
    run(composed, killed, *early, "test=false")
    run(composed, killed, *early, "resume=auto")
    assert step_of(killed / "checkpoints/last.ckpt") == 12
    assert_same_end(undisturbed, killed)


def test_a_finished_run_without_test_keeps_its_result(composed: Compose, tmp_path: Path) -> None:
    result = run(composed, tmp_path, "test=false")
    before = (tmp_path / "metrics.json").read_text()
    assert run(composed, tmp_path, "test=false", "resume=auto") == result
    assert (tmp_path / "metrics.json").read_text() == before


def test_no_checkpoint_falls_between_accumulated_batches(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint by the clock may be due after any batch."""
    batches = []

    def note(self: ModelCheckpoint, *arguments: Any) -> None:
        batches.append(arguments[-1])

    monkeypatch.setattr(ModelCheckpoint, "on_train_batch_end", note)
    run(composed, tmp_path, "trainer.accumulate_grad_batches=2", "trainer.max_epochs=1")
    # The end of the epoch calls it as well.
    assert set(batches) <= {1, 3, 0}
    assert batches.count(1) == batches.count(3) == 2  # best and last


def test_a_run_that_stopped_in_its_first_epoch_stays_stopped(
    composed: Compose, tmp_path: Path
) -> None:
    early = (
        "callbacks=[default,early_stopping]",
        "+callbacks.early_stopping.stopping_threshold=-1",
    )
    run(composed, tmp_path, *early, "test=false")
    run(composed, tmp_path, *early, "test=false", "resume=auto")
    assert step_of(tmp_path / "checkpoints/last.ckpt") == 6


def test_more_patience_lets_a_stopped_run_go_on(composed: Compose, tmp_path: Path) -> None:
    early = (
        "callbacks=[default,early_stopping]",
        "callbacks.early_stopping.min_delta=1.0",
        "trainer.max_epochs=9",
        "test=false",
    )
    run(composed, tmp_path, *early, "callbacks.early_stopping.patience=1")
    run(composed, tmp_path, *early, "callbacks.early_stopping.patience=3", "resume=auto")
    assert step_of(tmp_path / "checkpoints/last.ckpt") == 24


def test_several_best_files_need_names_of_their_own(composed: Compose, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"save_top_k=3 files cannot all be called best; try"):
        run(composed, tmp_path / "run", "callbacks.best_checkpoint.save_top_k=3")
    assert not (tmp_path / "run").exists()


def test_a_milestone_every_epoch(composed: Compose, tmp_path: Path) -> None:
    """It has the trigger of the last checkpoint, and Lightning takes the two for one."""
    every = ("callbacks=[default,milestones]", "callbacks.milestones.every_n_epochs=1")
    run(composed, tmp_path, *every, "test=false")
    assert len(list((tmp_path / "checkpoints").glob("epoch-*.ckpt"))) == 2


def test_the_last_checkpoint_is_the_end_also_when_saved_by_steps(
    composed: Compose, tmp_path: Path
) -> None:
    by_steps = (
        "callbacks.last_checkpoint.every_n_epochs=null",
        "callbacks.last_checkpoint.every_n_train_steps=500",
    )
    run(composed, tmp_path, *by_steps, "test=false")
    assert step_of(tmp_path / "checkpoints/last.ckpt") == 12


def test_an_epoch_without_validation_is_never_the_best(composed: Compose, tmp_path: Path) -> None:
    rarely = ("trainer.check_val_every_n_epoch=2", "callbacks.best_checkpoint.save_top_k=-1")
    name = ("callbacks.best_checkpoint.filename='best-{epoch}'", "trainer.max_epochs=5")
    run(composed, tmp_path, *rarely, *name, "test=false")
    found = sorted(path.name for path in (tmp_path / "checkpoints").glob("best*.ckpt"))
    assert found == ["best-epoch=1.ckpt", "best-epoch=3.ckpt"]


def test_the_best_starts_anew_when_its_file_is_gone(composed: Compose, tmp_path: Path) -> None:
    run(composed, tmp_path, "test=false")
    (tmp_path / "checkpoints/best.ckpt").unlink()
    run(composed, tmp_path, "test=false", "resume=auto", "trainer.max_epochs=3")
    assert step_of(tmp_path / "checkpoints/best.ckpt") == 18


def test_a_damaged_checkpoint_does_not_take_the_place_of_a_good_one(
    composed: Compose, tmp_path: Path
) -> None:
    run(composed, tmp_path, "test=false")
    folder = tmp_path / "checkpoints"
    for name in ("last", "best"):
        content = bytearray((folder / f"{name}.ckpt").read_bytes())
        content[-2000] ^= 1
        (folder / f"{name}.ckpt").write_bytes(content)
    run(composed, tmp_path, "test=false", "resume=auto")
    assert step_of(folder / "last.ckpt") == 12
    assert {path.name for path in folder.glob("*.damaged")} == {
        "last.ckpt.damaged",
        "best.ckpt.damaged",
    }
    assert not any(is_damaged(path) for path in folder.glob("*.ckpt"))


def test_a_moving_average_is_kept_or_missed(composed: Compose, tmp_path: Path) -> None:
    run(composed, tmp_path, "test=false", "callbacks=[default,ema]", "callbacks.ema.decay=0.9")
    with pytest.raises(InputError, match=r"was trained with a moving average"):
        run(composed, tmp_path, "test=false", "resume=auto", "trainer.max_epochs=3")


def test_two_runs_at_once_in_one_folder_are_refused(composed: Compose, tmp_path: Path) -> None:
    command = "import fcntl,sys,time; f=open(sys.argv[1],'w'); fcntl.lockf(f, fcntl.LOCK_EX);"
    command += "print('held', flush=True); time.sleep(600)"
    other = subprocess.Popen(
        [sys.executable, "-c", command, str(tmp_path / ".lock")], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    try:
        with pytest.raises(InputError, match="another process is training in"):
            run(composed, tmp_path, "test=false")
    finally:
        other.kill()
        other.wait()
    run(composed, tmp_path, "test=false")  # a killed process holds nothing
