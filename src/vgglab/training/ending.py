"""However a run ends, its folder says how: `status.json`, and the page as far as it got."""

import logging
from pathlib import Path
from threading import Lock
from types import TracebackType

from lightning.pytorch.utilities.exceptions import SIGTERMException

from vgglab.cluster.preemption import REQUEUE
from vgglab.config.errors import explain
from vgglab.config.secrets import line_without_secrets
from vgglab.reporting.report import write_report
from vgglab.reporting.status import End, RunStatus

log = logging.getLogger(__name__)

# The longest that one thread waits for another one that is writing the page already.
_PATIENCE_SECONDS = 10.0


class Ending:
    """A context around a run, of the first process: writes down how it ends, once.

    Args:
        run_dir: the run's folder.
        devices: the world size.
        resumed: whether this attempt continues the run of that folder.

    Raises:
        InputError: `status.json` of the attempt before is damaged.
        OSError: the folder cannot be written.
    """

    def __init__(self, run_dir: Path, devices: int, resumed: bool) -> None:
        self._run_dir = run_dir
        self._status = RunStatus(run_dir, devices, resumed)
        self._writing = Lock()
        self._written = False

    def __enter__(self) -> "Ending":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, SIGTERMException | KeyboardInterrupt):
            self._write_if_possible("stopped")
        elif error is not None:
            self._write_if_possible("failed", _line(error))

    def finish(self) -> None:
        """Write that the run has reached its end; a page that cannot be written is a warning.

        Raises:
            OSError: `status.json` cannot be written.
        """
        self._write("finished")

    def leave(self, code: int, line: str) -> None:
        """Write why this process is about to be ended, from any thread and without raising.

        Args:
            code: its exit code.
            line: the reason.
        """
        if code == REQUEUE:
            self._write_if_possible("stopped")
        else:
            self._write_if_possible("failed", line)

    def _write_if_possible(self, status: End, error: str | None = None) -> None:
        try:
            self._write(status, error)
        except BaseException as problem:  # noqa: BLE001 - the run's own end must not be hidden
            _warn(problem, error)

    def _write(self, status: End, error: str | None = None) -> None:
        if not self._writing.acquire(timeout=_PATIENCE_SECONDS):
            return
        try:
            if not self._written:
                self._status.end(status, error)
                self._written = True
                try:
                    write_report(self._run_dir)
                except Exception as problem:  # noqa: BLE001 - scripts/report.py writes it again
                    _warn(problem, error)
        finally:
            self._writing.release()


def _warn(problem: BaseException, error: str | None) -> None:
    # A full disk has ended the run, which says so in one line.
    known = error is not None and isinstance(problem, OSError)
    level = logging.DEBUG if known else logging.WARNING
    log.log(level, "no page of this run's end: %s", _line(problem))


def _line(error: BaseException) -> str:
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        # Somebody's callback or library, which may have done so because of an error.
        why = f": {_line(error.__context__)}" if error.__context__ is not None else ""
        return f"left by itself with exit code {error.code or 0}{why}"
    whole = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return explain(error) or line_without_secrets(whole.partition("\n")[0])
