"""A training run from its configuration: build, fit, test, report."""

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from lightning import Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint

from vgglab.cluster.launch import (
    ending_with_launcher,
    resume_setting,
    run_apart,
    starts_processes,
    use_interface_of_master,
)
from vgglab.cluster.preemption import REQUEUE, Preemption
from vgglab.cluster.watch import Watch
from vgglab.config.door import FULL_TRACEBACK
from vgglab.config.schema import TrainConfig, plain
from vgglab.data import ImageDataModule
from vgglab.errors import InputError
from vgglab.files import alone_in, read_json, remove, remove_leftovers, shown
from vgglab.reporting.environment import open_run_folder, write_json
from vgglab.reporting.history import read_history
from vgglab.reporting.network import network_record
from vgglab.reporting.record import read_skipped
from vgglab.reporting.skipped import skipped_row
from vgglab.reporting.summary import summarize
from vgglab.reporting.tensorboard import boards
from vgglab.reporting.terminal import console, print_result
from vgglab.reporting.tracking import finish, leave
from vgglab.text import duration
from vgglab.training.assembly import (
    build_classifier,
    build_data,
    build_network,
    build_trainer,
    rehearse,
)
from vgglab.training.checkpointing import Start, checkpoint_to_resume
from vgglab.training.classifier import Classifier
from vgglab.training.ending import Ending
from vgglab.training.finite import anomaly

log = logging.getLogger(__name__)

# What TensorBoard's HPARAMS page compares runs by.
_HYPERPARAMETERS = (
    "model",
    "optimizer",
    "scheduler",
    "loss",
    "data",
    "trainer",
    "seed",
    "weights",
    "decay_norm_and_bias",
)


def train(job: TrainConfig) -> dict[str, float]:
    """Fit, then test with the best checkpoint.

    Returns:
        The test metrics, or the last validation metrics with `test: false`.

    Raises:
        InputError: something in the configuration or a file that it names cannot be used.
    """
    _quiet()
    with ending_with_launcher(), Preemption() as preemption:
        return _train(job, preemption)


def _train(job: TrainConfig, preemption: Preemption) -> dict[str, float]:
    run_dir = Path(job.run_dir)
    checkpoints = run_dir / "checkpoints"
    start = checkpoint_to_resume(resume_setting(job.resume, checkpoints), checkpoints)
    seed_everything(job.seed, verbose=False)
    data = build_data(job)
    network = build_network(job, data, start)
    summary = summarize(network, (data.preprocessing.channels, *data.preprocessing.size))
    trainer = build_trainer(job, data, start, preemption)
    classifier = build_classifier(job, data, network)
    rehearse(classifier, data, trainer)
    if job.is_sweep and starts_processes(trainer):
        run_apart(run_dir)
        return read_json(run_dir / "metrics.json")
    use_interface_of_master(trainer)
    watch = Watch(trainer, job.accelerator.timeout_seconds)
    leads = trainer.is_global_zero
    with watch, _own_folder(job, trainer, start) if leads else nullcontext() as ending:
        if ending is not None:
            watch.before_leaving = partial(_leave, trainer, ending)
            write_json(run_dir / "network.json", network_record(network, summary).model_dump())
            console.print(summary.table())
            _introduce(job, data, trainer, start)
            if inherited := getattr(network, "inherited", []):
                source = job.model.arguments["init_from"]
                console.print(f"layers from {source}: {', '.join(inherited)}")
        started = time.monotonic()
        _fit(trainer, classifier, data, start)
        seconds = time.monotonic() - started
        result = _test(trainer, classifier, data) if job.test else _validated(trainer, run_dir)
        if ending is not None:
            _conclude(run_dir, job, trainer, result, seconds, ending)
    return result


def _leave(trainer: Trainer, ending: Ending, code: int, line: str) -> None:
    ending.leave(code, line)
    leave(trainer.loggers, "KILLED" if code == REQUEUE else "FAILED")


def _quiet() -> None:
    """Keep what a person must act on; drop what Lightning says of itself."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # images in memory need none
        ".*number of training batches.*is smaller than the logging interval.*",
        ".*recommended to use `self.log.*sync_dist=True.*",  # torchmetrics has synchronised already
        ".*isinstance.treespec, LeafSpec.*",  # of Lightning's own code
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*The dirpath has changed from .*",  # of a run that branches off another one
        ".*`srun` command is available .*",  # outside of jobs
        # Kernels of one channel or of 1x1 lie in memory in one way that has several strides.
        r"Grad strides do not match bucket view strides[^[]*\[\d+, (1, \d+, \d+|\d+, 1, 1)\]",
        ".*all_gather is deprecated, use torch.distributed._functional_.*",  # Lightning does
    ):
        warnings.filterwarnings("ignore", message)
    if not FULL_TRACEBACK:
        warnings.filterwarnings("ignore", ".*Error detected in .*")  # by trainer.detect_anomaly


@contextmanager
def _own_folder(job: TrainConfig, trainer: Trainer, start: Start | None) -> Iterator[Ending]:
    """Hold the run's folder, cleared of what a killed run left unfinished, until the run ends."""
    run_dir = Path(job.run_dir)
    with ExitStack() as held:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            held.enter_context(alone_in(run_dir))
        except BlockingIOError as error:
            raise InputError(f"another process is training in {run_dir}") from error
        except OSError as error:
            raise InputError(f"cannot write into the run folder {run_dir}: {error}") from error
        for folder in (run_dir, run_dir / "checkpoints", run_dir / "nonfinite"):
            remove_leftovers(folder)
        for damaged in start.passed_over if start is not None else ():
            # Out of the way of the good one that would be kept beside its successor.
            os.replace(damaged, damaged.with_name(f"{damaged.name}.damaged"))
            remove(damaged)
        stale = ["metrics", "confusion", "mistakes"]  # of an earlier attempt's test
        if start is None:
            stale.append("skipped")
        for name in stale:
            (run_dir / f"{name}.json").unlink(missing_ok=True)
        open_run_folder(run_dir, job.composition)
        yield held.enter_context(Ending(run_dir, trainer.world_size, start is not None))


def _introduce(
    job: TrainConfig, data: ImageDataModule, trainer: Trainer, start: Start | None
) -> None:
    """Say what is about to run."""
    images = ", ".join(f"{len(images):,} {split}" for split, images in data.sets.items())
    accumulated = job.trainer.accumulate_grad_batches
    batch = f"{data.batch_size} = {trainer.world_size} x {data.batch_size // trainer.world_size}"
    if accumulated > 1:
        batch += f", {accumulated} of them an optimiser step"
    device = trainer.strategy.root_device
    console.print(
        f"{job.name}: {images} images of {len(data.classes)} classes; batch {batch} on {device}"
    )
    if start is not None:
        console.print(f"continues from {shown(start.path)}, after step {start.step:,}")


def _fit(
    trainer: Trainer, classifier: Classifier, data: ImageDataModule, start: Start | None
) -> None:
    try:
        trainer.fit(classifier, datamodule=data, ckpt_path=None if start is None else start.path)
    except MisconfigurationException as error:  # such as a monitor that nothing logs
        raise InputError(str(error)) from error
    except RuntimeError as error:
        if "Early stopping conditioned on metric" in str(error):
            raise InputError(str(error)) from error
        if (found := anomaly(trainer, error)) is not None:
            raise found from error
        raise


def _validated(trainer: Trainer, run_dir: Path) -> dict[str, float]:
    """The last validation's metrics, also of a run that had ended before it was resumed."""
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if not metrics:
        for row in read_history(run_dir / "metrics.csv"):
            metrics.update(row)
    return {name: value for name, value in metrics.items() if name.startswith("val/")}


def _test(trainer: Trainer, classifier: Classifier, data: ImageDataModule) -> dict[str, float]:
    writers = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    monitored_first = sorted(writers, key=lambda writer: writer.monitor is None)
    written = [Path(w.dirpath or "", Path(w.best_model_path).name) for w in monitored_first]
    saved = [path for path in written if path.is_file()]
    # Every process tests the same file, also where one sees its folder late or not at all.
    chosen = trainer.strategy.broadcast(saved[0] if saved else None)
    found: Any = trainer.test(classifier, datamodule=data, ckpt_path=chosen, verbose=False)
    return {name: float(value) for name, value in found[0].items()}


def _conclude(
    run_dir: Path,
    job: TrainConfig,
    trainer: Trainer,
    result: dict[str, float],
    seconds: float,
    ending: Ending,
) -> None:
    write_json(run_dir / "metrics.json", result)
    settings = {name: value for name, value in plain(job).items() if name in _HYPERPARAMETERS}
    for board in boards(trainer):
        board.log_settings(settings)
        board.finalize("success")
    finish(trainer.loggers)
    ending.finish()
    print_result(
        result,
        {
            "training time": duration(seconds),
            **skipped_row(run_dir, read_skipped(run_dir)),
            "run folder": shown(run_dir),
            "page": shown(run_dir / "report.html"),
            "TensorBoard": f"scripts/dashboard.py {shown(run_dir)}",
        },
    )
