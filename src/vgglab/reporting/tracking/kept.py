"""What the loggers of a service share: what a resumed run must not log twice, and their words."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from vgglab.config.secrets import line_without_secrets
from vgglab.errors import InputError
from vgglab.files import read_json, replace_file
from vgglab.reporting.history import read_history

_EPOCH = "epoch"  # Lightning adds it to all metrics


class Kept:
    """What a run and those that resume it share: an id, and what has been logged.

    Args:
        run_dir: the run's folder.
        where: the name of the service.
        resume_step: None for a new run, which begins with a new id.
    """

    def __init__(self, run_dir: str, where: str, resume_step: int | None) -> None:
        self._path = Path(run_dir) / f"{where}.json"
        self._history: list[dict[str, float]] = []
        self._logged: dict[int, set[str]] = {}
        self.run_id: str | None = None
        if resume_step is not None and self._path.is_file():
            self.run_id = self._read()
            # Nobody can take back what an earlier process logged after its last checkpoint, but
            # the run comes to the same numbers again.
            for row in read_history(self._path.with_name("metrics.csv")):
                step = int(row.get("step", 0))
                if step < resume_step:
                    self._history.append(row)
                else:
                    self._logged.setdefault(step, set()).update(row)

    def start_over(self) -> list[dict[str, float]]:
        """The rows of the history that the run continues; nothing counts as logged."""
        self._logged.clear()
        return self._history

    def fresh(self, metrics: Mapping[str, float], step: int | None) -> dict[str, float]:
        """Those that have not been logged at this step."""
        step = step or 0
        self._logged = {then: names for then, names in self._logged.items() if then >= step}
        logged = self._logged.setdefault(step, {_EPOCH})
        fresh = {name: value for name, value in metrics.items() if name not in logged}
        logged.update(fresh)
        return fresh

    def write(self, run_id: str) -> None:
        """Keep the service's id for those that resume the run."""
        if run_id != self.run_id:
            self.run_id = run_id
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, (json.dumps({"id": run_id}) + "\n").encode())

    def _read(self) -> str:
        run_id = read_json(self._path).get("id")
        if not (isinstance(run_id, str) and re.fullmatch(r"[\w-]{1,64}", run_id)):
            raise InputError(f"{self._path} holds no id of a run; without it a new one begins")
        return run_id


def epoch_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """The epoch alone, where the metrics have it."""
    return {_EPOCH: metrics[_EPOCH]} if _EPOCH in metrics else {}


def run_name(run_dir: str) -> str:
    """Such as `digits/2026-01-31_12-00-00`."""
    return "/".join(Path(run_dir).resolve().parts[-2:])


def first_line(error: Exception) -> str:
    """What an error says, without secrets."""
    first = next((line for line in str(error).splitlines() if line), type(error).__name__)
    return line_without_secrets(first)
