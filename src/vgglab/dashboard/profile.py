"""Where the time of a few training steps goes: a table of operators, a timeline, and a trace.

TensorBoard itself shows no traces, and PyTorch has given its plugin up (torch-tb-profiler, see
https://github.com/pytorch/kineto/issues/1009): hence a picture of one step.
"""

import logging
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Ge
from lightning import Callback, LightningModule, Trainer
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.autograd.profiler_util import EventList, FunctionEvent
from torch.profiler import ProfilerActivity, profile, schedule

from vgglab.dashboard.drawing import step_of
from vgglab.dashboard.tiles import show
from vgglab.reporting.markdown import pipe_table
from vgglab.reporting.pixels import rendered
from vgglab.reporting.tensorboard import boards
from vgglab.reporting.terminal import console

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

_WARM_UP = 1  # step of the profiler: its own start is dear
_STEP = "ProfilerStep"  # torch's mark of a step
_NAME_LENGTH = 60  # of an operator; those of GPU kernels are whole C++ signatures
_VISIBLE = 1 / 1000  # of a step: what is shorter is no pixel wide
_DEPTH = 5  # of what calls what: a convolution's kernel is the fourth


class Profile(Callback):
    """Records some training steps of the first epoch, of the first process.

    Recorded is all that the process does between two steps' ends: the wait for data, forward,
    backward, optimiser, and what callbacks and loggers do. It slows these steps, so the throughput
    logged over them is no measure.

    Writes the operators that took most time as a text, on the terminal too, and the timeline of a
    step as a picture into TensorBoard; and all that was recorded into
    `run_dir/profile/trace.pt.trace.json`, for https://ui.perfetto.dev, which reads it in the
    browser and sends it nowhere.

    Args:
        run_dir: the run's folder.
        skip: steps before the first recorded one: kernels are chosen and caches filled in those.
        steps: recorded ones.
        rows: of the table.
    """

    def __init__(
        self,
        run_dir: str,
        skip: Annotated[int, Ge(1)] = 5,
        steps: Annotated[int, Ge(1)] = 10,
        rows: Annotated[int, Ge(1)] = 25,
    ) -> None:
        self.run_dir = Path(run_dir)
        self.skip = skip
        self.steps = steps
        self.rows = rows
        self._profile: profile | None = None
        self._done = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *rest: Any
    ) -> None:
        if not trainer.is_global_zero:
            return
        self._done += 1
        if self._done == self.skip:
            cycle = schedule(wait=0, warmup=_WARM_UP, active=self.steps, repeat=1)
            self._profile = profile(activities=_activities(), schedule=cycle)
            self._profile.start()
        elif self._profile is not None:
            self._profile.step()
            if self._done == self.skip + _WARM_UP + self.steps:
                self._finish(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._profile is not None and self._done > self.skip + _WARM_UP:
            self._finish(trainer)  # of an epoch that was too short for all steps

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()
        needed = self.skip + _WARM_UP + 1
        if trainer.is_global_zero and self._done < needed:
            log.warning(
                "no profile: training had %d steps, and the first recorded one is number %d "
                "(callbacks.profile.skip=%d)",
                self._done,
                needed,
                self.skip,
            )

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        """torch's profiler, still running at the end of the process, crashes it."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None

    def _finish(self, trainer: Trainer) -> None:
        assert self._profile is not None
        self._profile.stop()
        folder = self.run_dir / "profile"
        folder.mkdir(exist_ok=True)
        self._profile.export_chrome_trace(str(folder / "trace.pt.trace.json"))
        steps = self._done - self.skip - _WARM_UP
        table = operator_table(self._profile.key_averages(), steps, self.rows)
        step, onto = step_of(trainer), boards(trainer)
        for board in onto:
            board.experiment.add_text("profile/operators", table, step)
        figure = timeline_figure(self._profile.events())  # type: ignore[no-untyped-call]
        show(rendered(figure), "profile/timeline", step, onto)
        console.print(table)
        self._profile = None


def _activities() -> list[ProfilerActivity]:
    gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    return [ProfilerActivity.CPU, *gpu]


def operator_table(operators: EventList, steps: int, rows: int) -> str:
    """The costliest operators as a Markdown table, by time on the GPU where there is one.

    Args:
        operators: `torch.profiler.profile.key_averages()`.
        steps: recorded ones, over which the times are averaged.
        rows: at most so many operators.

    Returns:
        A line an operator: its own time in milliseconds a step (what it called not included), its
        share of all, and its calls a step.
    """
    on_gpu = any(operator.self_device_time_total for operator in operators)
    place = "self_device_time_total" if on_gpu else "self_cpu_time_total"  # microseconds
    own = [(getattr(operator, place), operator) for operator in operators]
    # The mark of a step is no work: its own time is that of Python between the operators.
    work = [(time, o) for time, o in own if time and not o.key.startswith(_STEP)]
    total = sum(time for time, _ in work)
    where = "GPU" if on_gpu else "CPU"
    heading = f"{steps} steps, {total / 1000 / steps:.1f} ms of operators a step on the {where}"
    lines = [
        (
            operator.key[:_NAME_LENGTH],
            f"{time / 1000 / steps:.3f}",
            f"{time / total:.1%}",
            f"{operator.count / steps:.1f}",
        )
        for time, operator in sorted(work, key=lambda pair: -pair[0])[:rows]
    ]
    columns = ("operator", f"{where} ms a step", "share", "calls a step")
    return f"{heading}\n\n{pipe_table(columns, lines, range(1, 4))}"


def _lanes(
    events: Sequence[FunctionEvent], main_thread: int
) -> list[tuple[str, list[FunctionEvent]]]:
    """Rows of events that do not overlap: of each thread those that were called first, then what
    they called; of the GPU its streams."""
    by_place = defaultdict(list)
    for event in events:
        on_gpu = event.device_type != DeviceType.CPU
        by_place[(on_gpu, event.thread != main_thread, event.thread)].append(event)
    lanes = []
    for (on_gpu, _, thread), of_place in sorted(by_place.items()):
        rows: list[list[FunctionEvent]] = []
        # Callers first: they begin no later and end no earlier.
        for event in sorted(of_place, key=lambda e: (e.time_range.start, -e.time_range.end)):
            begun = event.time_range.start
            free = (r for r, row in enumerate(rows) if row[-1].time_range.end <= begun)
            row = next(free, len(rows))
            if row == len(rows):
                rows.append([])
            rows[row].append(event)
        place = "GPU" if on_gpu else "CPU" if thread == main_thread else "CPU, other thread"
        lanes += [(place if not depth else "", row) for depth, row in enumerate(rows[:_DEPTH])]
    return lanes


def timeline_figure(events: Sequence[FunctionEvent]) -> "Figure":
    """The last whole step, from left to right: what ran when, and below each what it called.

    Args:
        events: `torch.profiler.profile.events()`, with a `ProfilerStep#N` for each step.

    Returns:
        A matplotlib figure that belongs to no window and no global state.

    Raises:
        ValueError: no step was recorded.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    steps = [e for e in events if e.name.startswith(_STEP) and e.device_type == DeviceType.CPU]
    if not steps:
        raise ValueError("no step was recorded")
    start, end = steps[-1].time_range.start, steps[-1].time_range.end
    inside = [
        e
        for e in events
        if start <= e.time_range.start < end
        and not e.name.startswith(_STEP)
        and e.time_range.end - e.time_range.start > (end - start) * _VISIBLE
    ]
    lanes = _lanes(inside, main_thread=steps[-1].thread)
    figure = Figure(figsize=(16, 1.5 + 0.35 * len(lanes)), dpi=100, layout="constrained")
    axes = figure.add_subplot(
        xlabel="ms", title=f"one training step, {(end - start) / 1000:.1f} ms"
    )
    colours = colormaps["tab20"].colors  # type: ignore[attr-defined]
    for row, (_, lane) in enumerate(lanes):
        for event in lane:
            begin = (event.time_range.start - start) / 1000
            width = (event.time_range.end - event.time_range.start) / 1000
            name = event.name.removeprefix("aten::")
            colour = colours[zlib.crc32(name.encode()) % len(colours)]
            axes.barh(row, width, left=begin, height=0.9, color=colour)
            axes.text(begin, row, f" {name}", va="center", fontsize=7, clip_on=True).set_clip_path(
                Rectangle((begin, row - 0.5), width, 1, transform=axes.transData)
            )
    axes.set_yticks(range(len(lanes)), [label for label, _ in lanes])
    axes.set_xlim(0, (end - start) / 1000)
    axes.invert_yaxis()
    return figure
