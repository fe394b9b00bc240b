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
from tests.faults.trials import HANGS, PATIENCE, Reference, Trial, ending, group_exists
from tests.training.runs import assert_same


class LaunchedRun:
    """A run that the script begins and continues, in `folder/run`."""

    def __init__(self, overrides: tuple[str, ...], folder: Path) -> None:
        self.overrides = overrides
        self.folder = folder
        self.story: list[str] = []
        self.run_dir = folder / "run"

    def start(self, *more: str) -> None:
        """With more overrides; it goes on when this returns."""
        with (self.folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    str(ROOT / "scripts/train.py"),
                    *self.overrides,
                    *more,
                    f"hydra.run.dir={self.run_dir}",
                ],
                cwd=self.folder,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    def disturb(self, chance: random.Random, seconds: float) -> str | None:
        """Kill one of the processes, or both, and wait until both are gone.

        Args:
            chance: chooses which, and when.
            seconds: that training takes.

        Returns:
            What was done; None if the run ended before.
        """
        victims = chance.choice(("main", "child", "both", "SIGTERM"))
        starting = chance.random() < 0.3
        moment = chance.uniform(0, 2 if starting else seconds)
        self.start()
        pids = self._processes(lambda: bool(self._children()) if starting else self._has_begun())
        time.sleep(moment)
        if self.process.poll() is not None:
            return None
        chosen = {"child": pids[1:], "both": pids}.get(victims, pids[:1])
        for pid in chosen:
            os.kill(pid, signal.SIGTERM if victims == "SIGTERM" else signal.SIGKILL)
        done = f"{victims} {moment:.3f} s after {'its processes' if starting else 'training'} began"
        assert self.end() != 0, f"{done}: exit code 0"
        return done

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
        """The exit code, once all processes are gone."""
        code = self.process.wait(HANGS)
        end = time.monotonic() + PATIENCE
        while group_exists(self.process.pid):
            assert time.monotonic() < end, "a process survives"
            time.sleep(0.01)
        return code

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def undergo_launched(trial: Trial, run: LaunchedRun, reference: Reference) -> bool:
    """Disturb, resume until the end, compare; False if it ended before anything happened to it."""
    done = run.disturb(trial.chance, reference.seconds)
    if done is None:
        return False
    run.story.append(done)
    run.start("resume=auto")
    code = run.end()
    run.story.append(f"ended with {code}")
    assert code == 0, run.output
    assert_same(reference.ending, ending(run.run_dir), "")
    return True
