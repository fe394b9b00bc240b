"""What a person sees of a run while it goes."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning import Callback, LightningModule, Trainer

from tests.conftest import TINY, Compose
from vgglab.config.schema import TrainConfig, parse
from vgglab.progress import Work
from vgglab.reporting.history import read_history
from vgglab.training import assembly
from vgglab.training import progress as module
from vgglab.training.progress import TrainingProgress
from vgglab.training.run import train


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> list[Work]:
    """All that was begun; each must end before the next."""
    begun: list[Work] = []
    open_ = []

    @contextmanager
    def shown(work: Work) -> Iterator[None]:
        assert not open_
        begun.append(work)
        open_.append(work)
        yield
        open_.pop()

    monkeypatch.setattr(module, "shown", shown)
    yield begun
    assert not open_


def counts(works: list[Work]) -> list[tuple[str, int, int | None]]:
    return [(work.what, work.done, work.total) for work in works]


def test_epochs_validations_and_the_test_are_counted(
    composed: Compose, tmp_path: Path, works: list[Work], capsys: pytest.CaptureFixture[str]
) -> None:
    train(parse(composed("train", *TINY), TrainConfig))
    assert counts(works) == [
        ("epoch 1/2", 6, 6),
        ("epoch 1/2, validation", 3, 3),
        ("epoch 2/2", 6, 6),
        ("epoch 2/2, validation", 3, 3),
        ("test", 3, 3),
    ]
    rows = read_history(tmp_path / "run" / "metrics.csv")
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert works[0].note == f"loss {losses[5]:.4f}"
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    validations = [row for row in rows if "val/loss" in row]
    for epoch, (line, row, loss) in enumerate(
        zip(lines, validations, (losses[5], losses[11]), strict=True), start=1
    ):
        figures = f"train/loss {loss:.4f}  val/loss {row['val/loss']:.4f}"
        left = r"  \d+ s left" if epoch == 1 else ""
        wanted = rf"epoch {epoch}/2  {re.escape(figures)}  val/top1 {row['val/top1']:.4f}{left}"
        assert re.fullmatch(wanted, line)
        assert len(line) <= 80


def test_an_error_ends_what_is_shown(
    composed: Compose, works: list[Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(Callback):
        def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
            if trainer.global_step == 3:
                raise KeyError("a bug")

    made = assembly._callbacks
    monkeypatch.setattr(assembly, "_callbacks", lambda *given: [*made(*given), Fails()])
    with pytest.raises(KeyError):
        train(parse(composed("train", *TINY), TrainConfig))
    assert [what for what, *_ in counts(works)] == ["epoch 1/2"]


def trainer(**given: Any) -> Any:
    usual = {
        "max_epochs": 10,
        "max_steps": -1,
        "global_step": 0,
        "current_epoch": 0,
        "num_training_batches": 100,
        "accumulate_grad_batches": 1,
        "log_every_n_steps": 50,
        "callback_metrics": {},
        "is_global_zero": True,
    }
    return SimpleNamespace(**{**usual, **given})


def started(bar: TrainingProgress, of: Any) -> None:
    bar.setup(of, LightningModule(), "fit")
    bar.on_train_start(of, LightningModule())


def test_an_epoch_goes_on_where_it_was_left(works: list[Work]) -> None:
    bar, of = TrainingProgress(), trainer()
    started(bar, of)
    bar.on_train_batch_start(of, LightningModule(), None, 40)
    bar.on_train_batch_end(of, LightningModule(), None, None, 40)
    assert counts(works) == [("epoch 1/10", 41, 100)]
    bar.on_train_epoch_end(of, LightningModule())


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"global_step": 250}, "2 min 30 s left"),  # 750 steps at 0.2 s
        ({"global_step": 250, "max_steps": 300}, "10 s left"),
        ({"global_step": 250, "max_steps": 300, "max_epochs": None}, "10 s left"),
        ({"global_step": 250, "max_steps": 300, "max_epochs": -1}, "10 s left"),
        ({"global_step": 250, "accumulate_grad_batches": 3}, "18 s left"),  # of 340
        ({"global_step": 1000}, ""),
    ],
)
def test_the_time_left_is_that_of_the_whole_run(
    given: dict[str, Any], left: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    bar, of = TrainingProgress(), trainer(**{**given, "global_step": 0})
    started(bar, of)
    now += 0.2 * given["global_step"]
    of.global_step = given["global_step"]
    bar.on_train_epoch_end(of, LightningModule())
    line = capsys.readouterr().out.rstrip()
    assert re.fullmatch(rf"epoch 1(/10)?{'  ' if left else ''}{left}", line)


def test_other_processes_are_silent(works: list[Work], capsys: Any) -> None:
    bar, of = TrainingProgress(), trainer(is_global_zero=False)
    started(bar, of)
    bar.on_train_batch_start(of, LightningModule(), None, 0)
    bar.on_train_batch_end(of, LightningModule(), None, None, 0)
    bar.on_train_epoch_end(of, LightningModule())
    assert works == []
    assert capsys.readouterr() == ("", "")
