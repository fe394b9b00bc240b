"""What drawing for TensorBoard costs: the seconds in the drawing callbacks' hooks, of a run's.

Two runs with and without them would have to be long to tell 1 % from a machine's moods; a stopwatch
around every hook tells it in one. It does not see the thread that writes the event files, which
takes processor time from training where all cores are busy.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose
from lightning import Callback, LightningModule, Trainer
from rich.table import Table

from vgglab.benchmarks.spread import measured_table, with_spread
from vgglab.config.benchmark_jobs import DashboardBenchmark
from vgglab.config.schema import TrainConfig, parse
from vgglab.reporting.environment import environment, write_json
from vgglab.training.run import train

_ROOM = "vgglab.dashboard."
_RESULT = "drawing.json"


class Stopwatch(Callback):
    """Adds up the seconds in the hooks of every callback that draws, and of the run.

    Args:
        run_dir: where `drawing.json` is written.
    """

    def __init__(self, run_dir: str) -> None:
        self.run_dir = Path(run_dir)
        self.drawing: dict[str, float] = defaultdict(float)
        self.run = 0.0
        self._begun = 0.0
        self._watched = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not self._watched:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if type(callback).__module__.startswith(_ROOM):
                    self._watch(callback)
            self._watched = True
        self._begun = time.perf_counter()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.run += time.perf_counter() - self._begun
        write_json(self.run_dir / _RESULT, {"run": self.run, "drawing": dict(self.drawing)})

    def _watch(self, callback: Callback) -> None:
        for name in dir(Callback):
            is_hook = name.startswith("on_") or name in ("setup", "teardown")
            if is_hook and getattr(type(callback), name) is not getattr(Callback, name):
                setattr(callback, name, self._timed(getattr(callback, name), callback))

    def _timed(self, hook: Callable[..., Any], callback: Callback) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            _finish_queue()
            begun = time.perf_counter()
            result = hook(*arguments, **named)
            _finish_queue()
            self.drawing[type(callback).__name__] += time.perf_counter() - begun
            return result

        return timed


def _finish_queue() -> None:
    # To ask whether there is a GPU would cost more than most hooks do.
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()


@dataclass(frozen=True)
class DrawingCost:
    """Seconds of each run; the drawing ones are among those of the run."""

    settings: list[str]
    run: list[float]
    drawing: list[dict[str, float]]
    """By callback."""
    load: list[float]
    """The machine's load average over a minute, before each run."""
    cpu: str
    torch: str

    @property
    def shares(self) -> list[float]:
        """Drawing over all else in fit and test."""
        sums = [sum(drawing.values()) for drawing in self.drawing]
        return [drawn / (run - drawn) for drawn, run in zip(sums, self.run, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return {**asdict(self), "share": statistics.median(self.shares)}

    def table(self) -> Table:
        """A line a callback, the costliest first; 80 columns suffice."""
        caption = (
            f"{' '.join(self.settings)}\n"
            f"median (lowest to highest) of {len(self.run)} runs;\n"
            f"{self.cpu}, torch {self.torch},\n"
            f"load average {min(self.load):.1f} to {max(self.load):.1f}"
        )
        table = measured_table("seconds", caption)
        names = {name for drawing in self.drawing for name in drawing}
        by_name = {n: [drawing.get(n, 0.0) for drawing in self.drawing] for n in names}
        for name, seconds in sorted(by_name.items(), key=lambda x: -statistics.median(x[1])):
            table.add_row(name, with_spread(seconds, 3))
        table.add_section()
        table.add_row("all drawing", with_spread([sum(d.values()) for d in self.drawing], 2))
        table.add_row("fit and test", with_spread(self.run, 1))
        table.add_row("drawing over all else", with_spread([100 * s for s in self.shares], 2, " %"))
        return table


def measure_dashboard(job: DashboardBenchmark) -> DrawingCost:
    """Train as `scripts/train.py` with `job.settings` does, `job.rounds` times.

    Raises:
        InputError: as training.
    """
    drawing, run, load = [], [], []
    for _ in range(job.rounds):
        with tempfile.TemporaryDirectory() as folder:
            watched = [
                *(f"run_dir={folder}", "name=benchmark"),
                f"+callbacks.stopwatch._target_={Stopwatch.__module__}.{Stopwatch.__name__}",
                f"+callbacks.stopwatch.run_dir={folder}",
            ]
            run_job = parse(compose("train", overrides=[*job.settings, *watched]), TrainConfig)
            # First, or it would miss what the others do in their `setup`.
            callbacks = {"stopwatch": run_job.callbacks["stopwatch"], **run_job.callbacks}
            load.append(os.getloadavg()[0])
            with redirect_stdout(sys.stderr):  # standard output is the measurement's
                train(run_job.model_copy(update={"callbacks": callbacks}))
            measured = json.loads(Path(folder, _RESULT).read_text())
        run.append(measured["run"])
        drawing.append(measured["drawing"])
    return DrawingCost(
        settings=job.settings,
        run=run,
        drawing=drawing,
        load=load,
        cpu=environment()["hardware"]["cpu"],
        torch=torch.__version__,
    )
