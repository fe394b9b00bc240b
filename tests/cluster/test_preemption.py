"""A run that is told to stop, resumed, ends as one that was not disturbed."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, Trainer

from tests.cluster.together import train_together
from tests.conftest import TINY, Compose
from tests.training.runs import assert_same_end, curves
from vgglab.cluster.preemption import _SIGNALS, REQUEUE, Preemption
from vgglab.config.schema import TrainConfig, parse
from vgglab.training import assembly
from vgglab.training.checkpointing import checkpoint_to_resume
from vgglab.training.run import train

STEPS = 6  # an epoch


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A process that stops hears no more signals; this one goes on."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class TellAt(Callback):
    """Sends its process, if that has the rank, a signal in a hook, at its nth time."""

    def __init__(self, hook: str, when: int, number: int, rank: int = 0) -> None:
        self.times = 0

        def tell(trainer: Trainer, *arguments: Any) -> None:
            self.times += 1
            if self.times == when and trainer.global_rank == rank:
                signal.raise_signal(number)

        setattr(self, hook, tell)


def job(composed: Compose, folder: Path, *overrides: str) -> TrainConfig:
    config = composed("train", *TINY, "model.head=imagenet", *overrides, run_dir=folder)
    return parse(config, TrainConfig)


def train_and_tell(
    monkeypatch: pytest.MonkeyPatch, given: TrainConfig, hook: str, when: int, number: int
) -> object:
    """Train until told to stop; returns the exit code."""
    original = assembly._callbacks
    teller = TellAt(hook, when, number)
    with monkeypatch.context() as patch:
        patch.setattr(assembly, "_callbacks", lambda *made: [teller, *original(*made)])
        with pytest.raises(SystemExit) as left:
            train(given)
    return left.value.code


def step_to_resume(folder: Path) -> int:
    start = checkpoint_to_resume("auto", folder / "checkpoints")
    assert start is not None
    return start.step


@pytest.fixture(scope="module")
def undisturbed() -> dict[tuple[str, ...], Path]:
    """The folders of whole runs, by their overrides."""
    return {}


@pytest.mark.parametrize(
    ("hook", "when", "overrides", "step"),
    [
        ("on_train_batch_start", 2, (), 2),
        ("on_before_optimizer_step", STEPS + 3, (), STEPS + 3),
        ("on_train_batch_start", STEPS, (), STEPS),  # an epoch's last
        ("on_validation_batch_start", 2, (), STEPS),
        ("on_train_batch_start", 2 * STEPS, (), 2 * STEPS),  # the run's last
        ("on_train_batch_start", 3, ("trainer.accumulate_grad_batches=2",), 2),
        ("on_train_batch_start", 3, ("callbacks=[default,ema]",), 3),
    ],
)
def test_it_stops_after_the_step_and_resumes_exactly(
    hook: str,
    when: int,
    overrides: tuple[str, ...],
    step: int,
    composed: Compose,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    undisturbed: dict[tuple[str, ...], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if overrides not in undisturbed:
        undisturbed[overrides] = tmp_path_factory.mktemp("undisturbed")
        train(job(composed, undisturbed[overrides], *overrides))
    given = job(composed, tmp_path, *overrides, "resume=auto")
    assert train_and_tell(monkeypatch, given, hook, when, signal.SIGTERM) == REQUEUE
    assert step_to_resume(tmp_path) == step
    train(given)
    assert_same_end(undisturbed[overrides], tmp_path)
    assert curves(undisturbed[overrides]) == curves(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_other_signals_do_the_same(
    number: signal.Signals,
    composed: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    given = job(composed, tmp_path)
    assert train_and_tell(monkeypatch, given, "on_train_batch_start", 2, number) == REQUEUE
    assert step_to_resume(tmp_path) == 2
    assert f"{number.name}: stops after this step" in capfd.readouterr().err
    for late in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        assert signal.getsignal(late) == signal.SIG_IGN  # they must not change the exit code


def test_told_while_it_tests_it_ends_at_once_and_comes_again_for_the_test(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = job(composed, tmp_path, "resume=auto")
    told = train_and_tell(monkeypatch, given, "on_test_batch_start", 2, signal.SIGTERM)
    assert told == REQUEUE
    assert not (tmp_path / "metrics.json").exists()
    assert "test/top1" in train(given)


def test_it_saves_also_where_a_checkpoint_is_not_due(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = job(composed, tmp_path, "callbacks.last_checkpoint.every_n_epochs=9")
    told = train_and_tell(monkeypatch, given, "on_validation_batch_start", 1, signal.SIGTERM)
    assert told == REQUEUE
    assert step_to_resume(tmp_path) == STEPS


@pytest.mark.parametrize("callbacks", ["progress", "ema"])
def test_it_saves_also_where_nothing_else_does(
    callbacks: str, composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = job(composed, tmp_path, f"callbacks=[{callbacks}]")
    told = train_and_tell(monkeypatch, given, "on_train_batch_start", 2, signal.SIGTERM)
    assert told == REQUEUE
    assert step_to_resume(tmp_path) == 2


def test_a_loaders_worker_outlives_the_signal(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM sends it to all processes of a job; at the end no worker is left."""

    class TellAll(Callback):
        def on_train_batch_start(self, trainer: Trainer, *arguments: Any) -> None:
            if trainer.global_step == 1:
                for process in (*multiprocessing.active_children(), os):
                    os.kill(getattr(process, "pid", os.getpid()), signal.SIGTERM)

    original = assembly._callbacks
    monkeypatch.setattr(assembly, "_callbacks", lambda *made: [TellAll(), *original(*made)])
    with pytest.raises(SystemExit) as left:
        train(job(composed, tmp_path, "data.num_workers=1"))
    assert left.value.code == REQUEUE
    assert step_to_resume(tmp_path) == 2


def test_one_of_two_processes_is_told_and_both_stop(tmp_path: Path) -> None:
    """After the same step: did one take another step, it would wait for the other one."""
    teller = "+callbacks.teller"
    telling = [
        "allowed_targets=[tests]",
        f"{teller}._target_=tests.cluster.test_preemption.TellAt",
        f"{teller}.hook=on_train_batch_start",
        *(f"{teller}.when=2", f"{teller}.number={signal.SIGUSR1}", f"{teller}.rank=1"),
    ]
    both = (*TINY, "accelerator=ddp_cpu", "accelerator.timeout_seconds=30")
    (tmp_path / "again").symlink_to(tmp_path / "told")
    jobs = {"undisturbed": both, "told": (*both, *telling), "again": (*both, "resume=auto")}
    train_together(tmp_path, jobs, processes=2, timeout=240)
    codes = [(tmp_path / f"told.error-{rank}").read_text() for rank in range(2)]
    assert codes == [str(REQUEUE), "0"]
    assert "last.ckpt, after step 3\n" in (tmp_path / "output-0").read_text()
    assert_same_end(tmp_path / "undisturbed", tmp_path / "told")


def test_one_ctrl_c_that_arrives_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(number))
    with Preemption() as preemption:
        preemption._training = True
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        assert killed == []
        preemption._when -= 2  # two seconds pass
        signal.raise_signal(signal.SIGINT)
        assert killed == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL


def test_submitit_hears_the_signal_that_it_asked_slurm_for() -> None:
    """It requeues its job itself, by the handler that it had installed."""
    heard: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    with pytest.raises(SystemExit) as left, Preemption():
        signal.raise_signal(signal.SIGUSR2)
    assert heard == [signal.SIGUSR2]
    assert left.value.code == REQUEUE


def test_the_handlers_are_as_before_afterwards() -> None:
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    with Preemption():
        assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before
