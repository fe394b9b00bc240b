"""`status.json`: how a run ended, and what it took."""

import time
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from vgglab.files import read_as
from vgglab.reporting.environment import write_json

State = Literal["running", "finished", "stopped", "failed"]
End = Literal["finished", "stopped", "failed"]
Outcome = Literal["running", "finished", "stopped", "failed", "did not end", "unfinished"]
"""`did not end`: it was killed. `unfinished`: nothing says which."""


@dataclass(frozen=True)
class Status:
    """What a run's `status.json` says; a run is all attempts in its folder that continue it.

    A run that was killed, or whose machine is lost, says `running` for ever.
    """

    status: State
    error: str | None
    """One line, of a run that failed."""
    started: str
    """The first attempt; ISO 8601 with the time zone, as are the next two."""
    attempt_started: str
    ended: str | None
    seconds: float
    """Wall time of training and test, all attempts that have ended."""
    devices: int
    """Of the last attempt: its world size."""
    device_seconds: float
    attempts: int


class RunStatus:
    """Keeps `status.json` of a run that begins now.

    Args:
        run_dir: its folder.
        devices: the world size.
        resumed: the attempts before count as well. One that was killed counts until it wrote into
            `metrics.csv` for the last time.

    Raises:
        InputError: `status.json` of the attempt before is damaged.
        OSError: the folder cannot be written.
    """

    def __init__(self, run_dir: Path, devices: int, resumed: bool) -> None:
        self._run_dir = run_dir
        self._began = time.monotonic()
        before = read_status(run_dir) if resumed else None
        if before is not None and before.status == "running":
            before = _lengthened(before, _until_the_last_row(run_dir, before))
        now = _now()
        self._status = Status(
            status="running",
            error=None,
            started=before.started if before else now,
            attempt_started=now,
            ended=None,
            seconds=before.seconds if before else 0.0,
            devices=devices,
            device_seconds=before.device_seconds if before else 0.0,
            attempts=before.attempts + 1 if before else 1,
        )
        _write(run_dir, self._status)

    def end(self, status: End, error: str | None = None) -> None:
        """Write how this attempt ended.

        Args:
            status: how.
            error: one line, of a run that failed.

        Raises:
            OSError: the folder cannot be written.
        """
        seconds = time.monotonic() - self._began
        ended = replace(self._status, status=status, error=error, ended=_now())
        _write(self._run_dir, _lengthened(ended, seconds))


def read_status(run_dir: Path) -> Status | None:
    """What `status.json` of a run's folder says; None where there is none.

    Raises:
        InputError: it is not what a run writes.
    """
    return read_as(run_dir / "status.json", Status)


def state_of(status: Status | None, has_result: bool, is_running: bool) -> Outcome:
    """How a run ended.

    Args:
        status: what its `status.json` says.
        has_result: its test ended well. Runs from before there was a status have that alone.
        is_running: a process is in its folder now.
    """
    if is_running:
        return "running"
    if status is None:
        return "finished" if has_result else "unfinished"
    return "did not end" if status.status == "running" else status.status


def _lengthened(status: Status, seconds: float) -> Status:
    return replace(
        status,
        seconds=status.seconds + seconds,
        device_seconds=status.device_seconds + seconds * status.devices,
    )


def _until_the_last_row(run_dir: Path, killed: Status) -> float:
    """Seconds from the attempt's begin to its last sign of life."""
    history = run_dir / "metrics.csv"
    if not history.exists():
        return 0.0
    began = datetime.fromisoformat(killed.attempt_started).timestamp()
    return max(0.0, history.stat().st_mtime - began)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _write(run_dir: Path, status: Status) -> None:
    write_json(run_dir / "status.json", asdict(status))
