"""What a run took, over all its attempts."""

import json
import os
from datetime import datetime
from pathlib import Path

import pytest

from vgglab.errors import InputError
from vgglab.reporting import status
from vgglab.reporting.status import RunStatus, read_status


class Clock:
    """Stands for the time module: it goes on when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(status, "time", made)
    return made


def test_while_it_runs_a_run_says_so(tmp_path: Path, clock: Clock) -> None:
    RunStatus(tmp_path, devices=4, resumed=False)
    found = json.loads((tmp_path / "status.json").read_text())
    started = datetime.fromisoformat(found.pop("started"))
    assert abs(datetime.now().astimezone() - started).total_seconds() < 60
    assert datetime.fromisoformat(found.pop("attempt_started")) == started
    assert found == {
        "status": "running",
        "error": None,
        "ended": None,
        "seconds": 0,
        "devices": 4,
        "device_seconds": 0,
        "attempts": 1,
    }


def test_all_attempts_count(tmp_path: Path, clock: Clock) -> None:
    first = RunStatus(tmp_path, devices=2, resumed=False)
    clock.now += 10
    first.end("stopped")
    begun = read_status(tmp_path)
    clock.now += 500  # in which nothing ran
    second = RunStatus(tmp_path, devices=8, resumed=True)
    clock.now += 3
    second.end("failed", "out of luck")
    found = read_status(tmp_path)
    assert begun is not None
    assert found is not None
    assert (found.status, found.error, found.attempts) == ("failed", "out of luck", 2)
    assert found.started == begun.started
    assert found.seconds == 10 + 3
    assert (found.devices, found.device_seconds) == (8, 10 * 2 + 3 * 8)


@pytest.mark.parametrize(("written", "counted"), [(25, 25.0), (-5, 0.0), (None, 0.0)])
def test_a_killed_attempt_counts_until_it_wrote_its_last_row(
    written: int | None, counted: float, tmp_path: Path, clock: Clock
) -> None:
    """-5: by the attempt before."""
    RunStatus(tmp_path, devices=2, resumed=False)
    killed = read_status(tmp_path)
    assert killed is not None
    if written is not None:
        history = tmp_path / "metrics.csv"
        history.write_text("step,epoch\n")
        began = datetime.fromisoformat(killed.attempt_started).timestamp()
        os.utime(history, (began + written, began + written))
    again = RunStatus(tmp_path, devices=1, resumed=True)
    clock.now += 1
    again.end("finished")
    found = read_status(tmp_path)
    assert found is not None
    assert found.seconds == pytest.approx(counted + 1)
    assert found.device_seconds == pytest.approx(2 * counted + 1)
    assert (found.status, found.attempts) == ("finished", 2)


def test_a_run_that_begins_anew_counts_from_nothing(tmp_path: Path, clock: Clock) -> None:
    old = RunStatus(tmp_path, devices=2, resumed=False)
    clock.now += 10
    old.end("failed", "an error")
    RunStatus(tmp_path, devices=1, resumed=False)
    found = read_status(tmp_path)
    assert found is not None
    assert (found.seconds, found.attempts, found.error) == (0, 1, None)


def test_a_run_from_before_there_was_a_status_can_go_on(tmp_path: Path) -> None:
    RunStatus(tmp_path, devices=1, resumed=True).end("finished")
    found = read_status(tmp_path)
    assert found is not None
    assert found.attempts == 1


@pytest.mark.parametrize("content", ["", "[]", '{"status": "finished"}', '{"status": 3}'])
def test_a_damaged_status_is_bad_input(content: str, tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    (tmp_path / "status.json").write_text(content)
    with pytest.raises(InputError, match=r"status\.json"):
        read_status(tmp_path)
