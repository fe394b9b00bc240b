"""However a run ends, its folder says how, and nothing hides why."""

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tests.conftest import TINY, Compose
from vgglab.cluster.preemption import _SIGNALS, REQUEUE
from vgglab.cluster.watch import Watch
from vgglab.config.schema import TrainConfig, parse
from vgglab.errors import InputError
from vgglab.reporting.status import Status, read_status
from vgglab.training import assembly, ending, run
from vgglab.training.ending import Ending
from vgglab.training.run import train


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A process that stops hears no more signals; this one goes on."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def found(folder: Path) -> tuple[Status, str]:
    """The status, and the page."""
    status = read_status(folder)
    assert status is not None
    return status, (folder / "report.html").read_text()


def job(composed: Compose, folder: Path, *overrides: str) -> TrainConfig:
    return parse(composed("train", *TINY, *overrides, run_dir=folder), TrainConfig)


ENDS: list[tuple[BaseException, str, str | None, str]] = [
    (RuntimeError("first line\nsecond"), "failed", "RuntimeError: first line", "Failed"),
    (InputError("give more"), "failed", "give more", "Failed"),
    (MemoryError(), "failed", "not enough memory", "Failed"),
    (AssertionError(), "failed", "AssertionError", "Failed"),
    (KeyboardInterrupt(), "stopped", None, "Stopped"),
    (SIGTERMException(), "stopped", None, "Stopped"),
    (SystemExit(3), "failed", "left by itself with exit code 3", "Failed"),
    (SystemExit("no time"), "failed", "SystemExit: no time", "Failed"),
    (OSError("http://me:hunter2@host"), "failed", "OSError: http://***@host", "Failed"),
]


@pytest.mark.parametrize(("error", "how", "line", "word"), ENDS, ids=lambda value: str(value)[:12])
def test_the_folder_tells_how_a_run_ended(
    error: BaseException, how: str, line: str | None, word: str, tmp_path: Path
) -> None:
    with pytest.raises(type(error)), Ending(tmp_path, devices=3, resumed=False):
        raise error
    status, page = found(tmp_path)
    assert (status.status, status.devices) == (how, 3)
    assert (status.error or "").startswith(line or "")
    assert (status.error is None) == (line is None)
    assert word in page
    assert (line or "") in page


@pytest.mark.parametrize("problem", [RuntimeError, SIGTERMException])
def test_a_page_that_cannot_be_written_does_not_hide_the_error(
    problem: type[BaseException],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(run_dir: Path) -> None:
        raise problem("the page's own")

    monkeypatch.setattr(ending, "write_report", fails)
    with pytest.raises(ValueError, match="the run's own"), Ending(tmp_path, 1, resumed=False):
        raise ValueError("the run's own")
    assert "the page's own" in caplog.text
    status = read_status(tmp_path)
    assert status is not None
    assert status.error == "ValueError: the run's own"


def test_a_run_that_has_finished_is_none_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(run_dir: Path) -> None:
        raise InputError("metrics.csv, line 2: not a row of numbers")

    monkeypatch.setattr(ending, "write_report", fails)
    with Ending(tmp_path, 1, resumed=False) as this:
        this.finish()
    status = read_status(tmp_path)
    assert status is not None
    assert (status.status, status.error) == ("finished", None)
    (line,) = caplog.messages
    assert "line 2" in line


def test_a_status_that_cannot_be_written_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    this = Ending(tmp_path, 1, resumed=False)
    with monkeypatch.context() as patch:
        patch.setattr(this._status, "end", _full)
        with pytest.raises(OSError, match="full"):
            this.finish()
    this.leave(1, "somewhere: No space left on device")
    status, _ = found(tmp_path)
    assert status.status == "failed"


def _full(*given: Any) -> None:
    raise OSError(errno.ENOSPC, "full")


def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "somewhere")

    def fails(run_dir: Path) -> None:
        raise full

    monkeypatch.setattr(ending, "write_report", fails)
    with pytest.raises(OSError, match="somewhere"), Ending(tmp_path, 1, resumed=False):
        raise full
    assert caplog.text == ""
    with pytest.raises(SIGTERMException), Ending(tmp_path, 1, resumed=False):
        raise SIGTERMException  # by which nobody knows of the disk
    assert "somewhere" in caplog.text


def _finish_and_hear(this: Ending) -> None:
    this.finish()
    raise SIGTERMException


def test_what_was_written_first_stays(tmp_path: Path) -> None:
    """Told to stop between the last line and the exit, a run has ended all the same."""
    this = Ending(tmp_path, 1, resumed=False)
    with pytest.raises(SIGTERMException), this:
        _finish_and_hear(this)
    status, page = found(tmp_path)
    assert status.status == "finished"
    assert "Finished" in page


@pytest.mark.parametrize(("code", "how"), [(1, "failed"), (REQUEUE, "stopped")])
def test_a_process_that_another_one_ends_writes_before(
    code: int, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Left(BaseException):
        pass

    def leave(given: int) -> None:
        assert given == code
        assert (tmp_path / "report.html").exists()
        raise Left

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr("vgglab.cluster.watch.say", lambda line: None)  # it speaks once a process
    watch = Watch(Trainer(logger=False, accelerator="cpu"), timeout_seconds=1)
    watch.before_leaving = Ending(tmp_path, 2, resumed=False).leave
    monkeypatch.setattr(watch, "_may_hang", lambda parent: False)
    with pytest.raises(Left):
        watch._leave((code, "rank 1 of 2 ended by SIGKILL"))
    status, page = found(tmp_path)
    assert status.status == how
    assert ("ended by SIGKILL" in page) == (how == "failed")


def test_a_test_that_fails_leaves_the_page_of_the_training(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any) -> None:
        raise ZeroDivisionError("in the test")

    monkeypatch.setattr(run, "_test", fails)
    with pytest.raises(ZeroDivisionError):
        train(job(composed, tmp_path, "trainer.max_epochs=1"))
    status, page = found(tmp_path)
    assert status.error == "ZeroDivisionError: in the test"
    assert status.seconds > 0
    assert "<polyline" in page


class Tell(Callback):
    def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        if trainer.global_step == 4:
            signal.raise_signal(signal.SIGTERM)


def test_a_run_that_is_told_to_stop_says_so_and_goes_on(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = assembly._callbacks
    with monkeypatch.context() as patch:
        patch.setattr(assembly, "_callbacks", lambda *given: [Tell(), *original(*given)])
        with pytest.raises(SystemExit) as left:
            train(job(composed, tmp_path, "trainer.max_epochs=1"))
    assert left.value.code == REQUEUE
    stopped, page = found(tmp_path)
    assert (stopped.status, stopped.attempts) == ("stopped", 1)
    assert "Stopped" in page
    train(job(composed, tmp_path, "trainer.max_epochs=1", "resume=auto"))
    finished, page = found(tmp_path)
    assert (finished.status, finished.attempts) == ("finished", 2)
    assert finished.seconds > stopped.seconds
    assert finished.started == stopped.started
    assert "Finished" in page
