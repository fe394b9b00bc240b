"""Issue 4: long use leaves nothing behind, in memory, in /proc, in the run's folder.

`pytest -m faults tests/faults/test_soak.py` runs the full lengths and tells what it measured.
"""

import atexit
import ctypes
import gc
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from PIL import Image
from scipy.stats import theilslopes
from torch.multiprocessing.reductions import shared_cache

from tests.conftest import TINY, Compose
from tests.faults.launched import LaunchedRun
from vgglab.cluster.preemption import REQUEUE
from vgglab.config.jobs import EvaluateConfig, PredictConfig
from vgglab.config.schema import TrainConfig, parse
from vgglab.data.batches import Batch, BatchView
from vgglab.evaluation.evaluate import evaluate
from vgglab.prediction.predict import predict
from vgglab.training import assembly
from vgglab.training import run as run_module
from vgglab.training.checkpointing import CheckpointWriter
from vgglab.training.run import train

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

BUSY = (
    *TINY,
    "data.num_workers=2",
    "data.pad=2",
    "data.flip=true",
    "data.mixup_alpha=0.2",
    "callbacks.last_checkpoint.every_n_epochs=null",
    "callbacks.last_checkpoint.every_n_train_steps=2",
)

Series = dict[str, list[float]]


class Length(NamedTuple):
    """How long a soak is, and how much one epoch or cycle may add in the median.

    Short runs move more: the allocator fills up.
    """

    number: int
    warm_up: int
    memory: float
    """KiB."""
    objects: float


FULL_EPOCHS, SHORT_EPOCHS = Length(50, 9, 32, 1), Length(11, 4, 128, 100)
FULL_CYCLES, SHORT_CYCLES = Length(20, 5, 128, 50), Length(6, 2, 512, 100)
MOMENTARY = 2  # more of what is counted may be there at an unlucky moment

LINEAR = ("metrics.csv bytes", "event bytes")
STEPS = 6  # an epoch of TINY


def excess(series: Series, length: Length) -> dict[str, str]:
    """What grows more than it may after the warm-up, and how.

    The slope is Theil and Sen's, the median over all pairs of measurements: one step is no slope.
    """
    found = {}
    for name, values in series.items():
        kept = values[length.warm_up :]
        slope, total = theilslopes(kept).slope, kept[-1] - kept[0]
        if name in LINEAR:
            half = len(kept) // 2
            first = kept[half] - kept[0]
            grows = total - first > 1.1 * first * (len(kept) - 1 - half) / half
        elif "KiB" in name or name == "objects":
            most = length.objects if name == "objects" else length.memory
            grows = slope > most or total > most * len(kept)
        else:
            grows = slope > 0 or total > MOMENTARY
        if grows:
            found[name] = f"{slope:.2f} each, {total:.0f} in all"
    return found


def resident(pid: int | str) -> int:
    """KiB of memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


_OTHERS: set[int] = set()


@pytest.fixture(autouse=True)
def _others() -> None:
    """What earlier tests left running, such as the fork server of the kills."""
    _OTHERS.clear()
    _OTHERS.update(children())


def children() -> list[int]:
    tasks = Path("/proc/self/task").iterdir()
    found = {int(pid) for task in tasks for pid in (task / "children").read_text().split()}
    return sorted(found - _OTHERS)


def measure() -> dict[str, float]:
    """What this process holds."""
    # As torch itself does when there are 128.
    shared_cache.free_dead_references()  # type: ignore[no-untyped-call]
    gc.collect()
    # The allocator keeps what is freed, here also what earlier tests freed: a leak would fill that
    # first and be seen late.
    ctypes.CDLL(None).malloc_trim(0)
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    maps = Path("/proc/self/maps").read_text().splitlines()
    return {
        "resident KiB": resident("self"),
        "device KiB": torch.cuda.memory_allocated() / 1024 if torch.cuda.is_available() else 0,
        "files": len(os.listdir("/proc/self/fd")),
        "mapped files": len({line.split(maxsplit=5)[5] for line in maps if "/" in line}),
        "threads": len(os.listdir("/proc/self/task")),
        "processes": len(children()),
        "objects": len(gc.get_objects()),
        "figures": len(matplotlib.pyplot.get_fignums()),
        "warning filters": len(warnings.filters),
        "loggers": len(loggers),
        "log handlers": sum(len(getattr(logger, "handlers", [])) for logger in loggers),
        "exit functions": atexit._ncallbacks(),
        "variables": len(os.environ),
    }


def handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def note(series: Series, values: dict[str, float]) -> None:
    for name, value in values.items():
        series.setdefault(name, []).append(value)


class Watch(Callback):
    """Measures at the start of each epoch but the first, before which there are no workers."""

    def __init__(self, run_dir: Path, leak: Callable[[Any], None] | None = None) -> None:
        self.run_dir = run_dir
        self.leak = leak
        self.series: Series = {}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        writer = trainer.strategy.checkpoint_io
        assert isinstance(writer, CheckpointWriter)
        writer.wait()  # or its copies count
        held = measure()
        if trainer.current_epoch == 0:
            return
        files = [path for path in self.run_dir.rglob("*") if path.is_file()]
        events = [path for path in files if path.name.startswith("events")]
        workers = {f"resident KiB of {n}": resident(pid) for n, pid in enumerate(children())}
        folder = {
            "files in the folder": len(files),
            "metrics.csv bytes": (self.run_dir / "metrics.csv").stat().st_size,
            "event bytes": sum(path.stat().st_size for path in events),
        }
        note(self.series, held | workers | folder)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.leak is not None:
            self.leak(batch)


@pytest.fixture
def show(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Callable[[Series], None]:
    """Tells at the end of the tests how much it grew at full length."""

    def shown(series: Series) -> None:
        if request.node.get_closest_marker("faults") is None:
            return
        lines = ["first, last, median slope"]
        for name, values in series.items():
            ends = f"{values[0]:>12,.0f} {values[-1]:>12,.0f}"
            lines.append(f"  {name:<24} {ends} {theilslopes(values).slope:>10,.2f}")
        record_property("measured", "\n".join(lines))

    return shown


def job(composed: Compose, run_dir: Path, *overrides: str) -> TrainConfig:
    return parse(composed("train", *BUSY, *overrides, run_dir=run_dir), TrainConfig)


def epochs(
    composed: Compose,
    folder: Path,
    count: int,
    monkeypatch: pytest.MonkeyPatch,
    leak: Callable[[Any], None] | None = None,
) -> Series:
    watch = Watch(folder, leak)
    original = assembly._callbacks
    with monkeypatch.context() as patch:
        patch.setattr(assembly, "_callbacks", lambda *given: [*original(*given), watch])
        train(job(composed, folder, f"trainer.max_epochs={count}"))
    return watch.series


@pytest.mark.parametrize(
    "length",
    [
        pytest.param(FULL_EPOCHS, marks=pytest.mark.faults, id="full"),
        pytest.param(SHORT_EPOCHS, marks=pytest.mark.slow, id="short"),
    ],
)
def test_nothing_grows_with_the_epochs(
    length: Length,
    composed: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    show: Callable[[Series], None],
) -> None:
    series = epochs(composed, tmp_path, length.number, monkeypatch)
    show({name: values[length.warm_up :] for name, values in series.items()})
    assert sum(name.startswith("resident KiB of ") for name in series) == 4
    assert excess(series, length) == {}


@pytest.mark.slow
def test_what_grows_with_the_epochs_is_found(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step leaves its batch, a file, a thread and objects, and in a worker a MiB."""
    kept: list[Any] = []
    end = threading.Event()

    def leak(batch: Any) -> None:
        thread = threading.Thread(target=end.wait)
        thread.start()
        kept.extend([batch[0].clone(), (tmp_path / "file").open("w"), thread])
        kept.extend([] for _ in range(100))

    original = BatchView.__getitem__

    def leaking(self: BatchView, keys: Any) -> Batch:
        batch = original(self, keys)
        kept.append(b"1" * 2**20)  # less would hide in the freed memory that a worker inherits
        return batch

    monkeypatch.setattr(BatchView, "__getitem__", leaking)
    try:
        found = excess(
            epochs(composed, tmp_path, SHORT_EPOCHS.number, monkeypatch, leak), SHORT_EPOCHS
        )
    finally:
        end.set()
    assert {"resident KiB", "files", "threads", "objects"} <= found.keys()
    assert sum(name.startswith("resident KiB of ") for name in found) >= 2  # those that train


@pytest.fixture
def cycle(
    request: pytest.FixtureRequest, composed: Compose, tmp_path: Path
) -> Callable[[], object]:
    """One use of what the test is about; training writes into a new folder each time."""
    # Enough images that a data module which stays is seen.
    data = ("data.train_size=500", "trainer.limit_train_batches=4", "trainer.max_epochs=2")
    numbers = iter(range(1000))

    def train_again() -> None:
        train(job(composed, tmp_path / f"run{next(numbers)}", *data))

    if request.param == "train":
        return train_again
    train_again()
    checkpoint = f"checkpoint={tmp_path}/run0/checkpoints/best.ckpt"
    if request.param == "evaluate":
        config = composed("evaluate", checkpoint, "protocol=dense", run_dir=tmp_path / "evaluation")
        return lambda: evaluate(parse(config, EvaluateConfig))
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    config = composed("predict", checkpoint, f"images={tmp_path}/image.png")
    return lambda: predict(parse(config, PredictConfig))


def cycles(cycle: Callable[[], object], count: int) -> Series:
    series: Series = {}
    for _ in range(count):
        cycle()
        note(series, measure())
    return series


@pytest.mark.parametrize(
    ("cycle", "length"),
    [
        *[
            pytest.param(use, FULL_CYCLES, marks=pytest.mark.faults, id=f"{use}-full")
            for use in ("train", "evaluate", "predict")
        ],
        pytest.param("train", SHORT_CYCLES, marks=pytest.mark.slow, id="train-short"),
    ],
    indirect=["cycle"],
)
def test_nothing_grows_with_the_cycles(
    length: Length, cycle: Callable[[], object], show: Callable[[Series], None]
) -> None:
    before = handlers()
    series = cycles(cycle, length.number)
    show({name: values[length.warm_up :] for name, values in series.items()})
    assert excess(series, length) == {}
    assert handlers() == before
    assert children() == []


@pytest.mark.faults
@pytest.mark.parametrize("cycle", ["train"], indirect=True)
def test_what_grows_with_the_cycles_is_found(
    cycle: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cycle leaves its trainer."""
    kept: list[Any] = []
    original = run_module.build_trainer

    def keeping(*arguments: Any) -> Any:
        kept.append(original(*arguments))
        return kept[-1]

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "build_trainer", keeping)
        found = excess(cycles(cycle, SHORT_CYCLES.number), SHORT_CYCLES)
    assert {"resident KiB", "objects"} <= found.keys()


class StoppedError(Exception):
    """Stands for whatever ends a run."""


def test_no_process_stays_when_a_run_fails(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def fail(batch: Any) -> None:
        seen.extend(children())
        raise StoppedError

    before = handlers()
    with pytest.raises(StoppedError) as caught:
        epochs(composed, tmp_path, 2, monkeypatch, fail)
    assert seen
    del caught  # its frames hold the loaders
    gc.collect()
    assert children() == []
    assert handlers() == before


@pytest.mark.faults
@pytest.mark.parametrize("accelerator", ["cpu", "ddp_cpu"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_stays_after_a_signal(
    number: signal.Signals,
    accelerator: str,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    run = LaunchedRun((*BUSY, f"accelerator={accelerator}", "trainer.max_epochs=10000"), tmp_path)
    # A test run in the background ignores it, and so would what it starts.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run.start()
        history = run.run_dir / "metrics.csv"
        while not history.exists() or history.read_text().count("\n") < 3 * STEPS:
            assert run.process.poll() is None, run.output
            time.sleep(0.05)
        started = time.monotonic()
        os.kill(run.process.pid, number)
        code = run.end()
        seconds = time.monotonic() - started
    finally:
        run.kill()
        signal.signal(signal.SIGINT, interrupt)
    record_property("measured", f"{number.name}: all processes gone after {seconds:.1f} s")
    assert code == (-number if number == signal.SIGKILL else REQUEUE)


def names(folder: Path) -> list[str]:
    """The files of a run; event files by kind alone, their names hold the time."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(p.relative_to(folder)).partition(".out.tfevents")[0] for p in found)


@pytest.mark.slow
def test_a_resumed_runs_folder_gets_event_files_and_loses_leftovers(
    composed: Compose, tmp_path: Path
) -> None:
    """Event files are one a fit, one a test and one for the hyper-parameters."""
    train(job(composed, tmp_path, "trainer.max_epochs=1"))
    before = names(tmp_path)
    for leftover in (".metrics.csv.1.tmp", "checkpoints/.last.ckpt.1.tmp"):
        (tmp_path / leftover).write_text("of a killed process")
    for count in (2, 3):
        train(job(composed, tmp_path, f"trainer.max_epochs={count}", "resume=auto"))
    events = [name for name in before if "events" in name]
    assert len(events) == 3
    assert names(tmp_path) == sorted([*before, *events, *events])
