"""scripts/train.py in two processes, which Lightning's launcher starts."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.conftest import ROOT
from tests.faults.forked import HANGS, nothing_survives


class LaunchedRun:
    """A run that the script begins and continues, in `folder/run`."""

    def __init__(self, overrides: tuple[str, ...], folder: Path) -> None:
        self.overrides = overrides
        self.folder = folder
        self.run_dir = folder / "run"
        self.story: list[str] = []
        self.resume: list[str] = []

    def start(self) -> None:
        """Begin the run, or continue it with `resume=auto`; it goes on when this returns."""
        script = [sys.executable, str(ROOT / "scripts/train.py")]
        with (self.folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [*script, *self.overrides, *self.resume, f"hydra.run.dir={self.run_dir}"],
                cwd=self.folder,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.resume = ["resume=auto"]

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    def disturb(self, chance: random.Random, within: float) -> bool:
        """Start it and kill one of the processes, or both; False if it ended before that.

        Args:
            chance: chooses which, and when.
            within: seconds of training, at most.
        """
        victims = chance.choice(("main", "child", "both", "SIGTERM"))
        starting = chance.random() < 0.3
        moment = chance.uniform(0, 2 if starting else within)
        self.start()
        pids = self._processes(lambda: bool(self._children()) if starting else self._has_begun())
        time.sleep(moment)
        if self.process.poll() is not None:
            return False
        begun = "its processes" if starting else "training"
        self.story.append(f"{victims} {moment:.3f} s after {begun} began")
        chosen = {"child": pids[1:], "both": pids}.get(victims, pids[:1])
        for pid in chosen:
            os.kill(pid, signal.SIGTERM if victims == "SIGTERM" else signal.SIGKILL)
        return self.end() != 0

    def _processes(self, ready: Callable[[], bool]) -> list[int]:
        """The main process and the one it started, once `ready`."""
        end = time.monotonic() + HANGS
        while not ready():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end, "it does not begin"
            time.sleep(0.01)
        return [self.process.pid, *self._children()]

    def _children(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def _has_begun(self) -> bool:
        return (self.run_dir / "metrics.csv").exists()

    def end(self) -> int:
        """The exit code, or minus the signal, once all processes are gone."""
        code = self.process.wait(HANGS)
        nothing_survives(self.process.pid)
        return code

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
