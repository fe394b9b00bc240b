"""A training run from its configuration: build, fit, test, report."""

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from signal import SIGTERM
from typing import Any

import torch
from lightning import Callback, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn

from vgglab.cluster.launch import (
    end_with_launcher,
    hear_sigterm,
    refuse_sweep_that_repeats_itself,
    strategy,
)
from vgglab.config.door import FULL_TRACEBACK
from vgglab.config.schema import TrainConfig, plain
from vgglab.data import ImageDataModule
from vgglab.data.sampling import per_device_batch_size
from vgglab.errors import InputError
from vgglab.files import alone_in, remove, remove_leftovers
from vgglab.networks import load_weights
from vgglab.networks.weights import misfits
from vgglab.reporting.environment import open_run_folder, write_json
from vgglab.reporting.history import read_history
from vgglab.reporting.report import write_report
from vgglab.reporting.summary import summarize
from vgglab.reporting.tensorboard import boards, flatten
from vgglab.reporting.terminal import console, print_result
from vgglab.training.checkpointing import CheckpointWriter, Start, checkpoint_to_resume
from vgglab.training.classifier import Classifier, horizon_of
from vgglab.training.finite import anomaly
from vgglab.training.optim import parameter_groups

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

# What a resumed run may not change, and what of it may differ on another machine.
_FIXED = ("model", "optimizer", "loss", "data", "seed", "decay_norm_and_bias")
_FREE = ("data.root", "data.num_workers", "data.memory_limit_gib")


def train(job: TrainConfig) -> dict[str, float]:
    """Fit, then test with the best checkpoint.

    Returns:
        The test metrics, or the last validation metrics with `test: false`.

    Raises:
        InputError: something in the configuration or a file that it names cannot be used.
    """
    _quiet()
    end_with_launcher()
    run_dir = Path(job.run_dir)
    start = checkpoint_to_resume(job.resume, run_dir / "checkpoints")
    seed_everything(job.seed, verbose=False)
    data = _data(job)
    network = _network(job, data, start)
    summary = summarize(network, (data.preprocessing.channels, *data.preprocessing.size))
    trainer = _trainer(job, start)
    refuse_sweep_that_repeats_itself(job.is_sweep, trainer)
    classifier = _classifier(job, data, network)
    _rehearse(classifier, data, trainer)
    with _own_folder(job, start) if trainer.is_global_zero else nullcontext():
        if trainer.is_global_zero:
            console.print(summary.table())
            _introduce(job, data, trainer, start)
            if inherited := getattr(network, "inherited", []):
                source = job.model.arguments["init_from"]
                console.print(f"layers from {source}: {', '.join(inherited)}")
        started = time.monotonic()
        try:
            _fit(trainer, classifier, data, start)
            seconds = time.monotonic() - started
            result = _test(trainer, classifier, data) if job.test else _validated(trainer, run_dir)
        except SIGTERMException as error:  # Lightning's would leave with exit code 0
            if trainer.is_global_zero:
                log.warning("stopped by SIGTERM; resume=auto continues from the last checkpoint")
            raise SystemExit(128 + SIGTERM) from error
        if trainer.is_global_zero:
            _conclude(run_dir, job, trainer, result, seconds)
    return result


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
    ):
        warnings.filterwarnings("ignore", message)
    if not FULL_TRACEBACK:
        warnings.filterwarnings("ignore", ".*Error detected in .*")  # by trainer.detect_anomaly


def _data(job: TrainConfig) -> ImageDataModule:
    data: ImageDataModule = job.data.build("data")
    if os.environ.get("LOCAL_RANK", "0") == "0":
        # Before anything is written, so that a missing folder costs nothing; one process a node
        # downloads, the others find the files when Lightning lets them continue.
        data.prepare_data()
        for stage in ("fit", "test") if job.test else ("fit",):
            data.setup(stage)
    return data


def _network(job: TrainConfig, data: ImageDataModule, start: Start | None) -> nn.Module:
    """The network as it begins: with weights, or of the shapes that a checkpoint will fill."""
    model = job.model
    if start is not None:
        _refuse_another_configuration(job, start)
        if model.accepts("init_from"):
            model = model.with_arguments(init_from=None)  # the checkpoint brings all layers
    network: nn.Module = model.build_for(len(data.classes), data.preprocessing.channels)
    if start is None:
        if job.weights is not None:
            load_weights(network, job.weights)
    elif problems := misfits(start.weights, network.state_dict()):
        raise InputError(f"{start.path} does not fit the network: {problems}")
    return network


@contextmanager
def _own_folder(job: TrainConfig, start: Start | None) -> Iterator[None]:
    """Hold the run's folder, cleared of what a killed run left unfinished."""
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
        (run_dir / "metrics.json").unlink(missing_ok=True)  # it stands for a run that has ended
        open_run_folder(run_dir, job.composition)
        yield


def _trainer(job: TrainConfig, start: Start | None) -> Trainer:
    how = job.trainer.model_dump(exclude={"channels_last", "compile", "async_checkpoints"})
    callbacks = _callbacks(job, start)
    try:
        trainer = Trainer(
            **how,
            accelerator=job.accelerator.accelerator,
            devices=job.accelerator.devices,
            num_nodes=job.accelerator.num_nodes,
            sync_batchnorm=job.accelerator.sync_batchnorm,
            strategy=strategy(job.accelerator),
            logger=_loggers(job, None if start is None else start.step),
            callbacks=callbacks,
            enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
            plugins=[CheckpointWriter(asynchronous=job.trainer.async_checkpoints)],
            default_root_dir=job.run_dir,
            use_distributed_sampler=False,  # ours shards already
            enable_model_summary=False,  # torchinfo's is shown
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise InputError(f"accelerator and trainer do not fit this machine: {error}") from error
    # With max_steps Lightning would take a resumed epoch's end for its middle.
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
    hear_sigterm(trainer)
    if trainer.precision != job.trainer.precision:  # on a CPU Lightning makes bf16 of fp16
        raise InputError(
            f"trainer.precision={job.trainer.precision} cannot be had on this machine; "
            f"{trainer.precision} can"
        )
    return trainer


def _loggers(job: TrainConfig, resume_step: int | None) -> list[Logger]:
    loggers = []
    for name, logger in job.logger.items():
        supplied = {"resume_step": resume_step} if logger.accepts("resume_step") else {}
        loggers.append(logger.build(f"logger.{name}", **supplied))
    return loggers


def _callbacks(job: TrainConfig, start: Start | None) -> list[Callback]:
    callbacks = []
    for name, callback in job.callbacks.items():
        try:
            callbacks.append(callback.build(f"callbacks.{name}"))
        except MisconfigurationException as error:
            raise InputError(f"callbacks.{name}: {error}") from error
    averages = any(isinstance(callback, WeightAveraging) for callback in callbacks)
    if start is not None and start.averages != averages:
        with_or_without = "with" if start.averages else "without"
        raise InputError(
            f"{start.path} was trained {with_or_without} a moving average of the weights "
            "(callbacks=[default,ema]); a resumed run keeps it, and weights= starts a new one"
        )
    return callbacks


def _classifier(job: TrainConfig, data: ImageDataModule, network: nn.Module) -> Classifier:
    return Classifier(
        network,
        job.loss.build("loss"),
        lambda groups: job.optimizer.build("optimizer", params=groups),
        lambda optimizer, horizon: job.scheduler.build(
            "scheduler", optimizer=optimizer, horizon=horizon
        ),
        num_classes=len(data.classes),
        seed=job.seed,
        decay_norm_and_bias=job.decay_norm_and_bias,
        channels_last=job.trainer.channels_last,
        compile=job.trainer.compile,
        card={
            "config": plain(job),
            "classes": list(data.classes),
            "preprocessing": data.preprocessing.to_dict(),
        },
    )


def _rehearse(classifier: Classifier, data: ImageDataModule, trainer: Trainer) -> None:
    """Make what Lightning makes only after the run's folder is written: refusals come now."""
    per_device_batch_size(data.batch_size, trainer.world_size)
    groups = parameter_groups(classifier.network, decay_norm_and_bias=True)
    optimizer = classifier.make_optimizer(groups)
    if data.sets:
        horizon = horizon_of(trainer, len(data.train_dataloader()))
        classifier.make_schedule(optimizer, horizon)
    try:
        classifier.loss(torch.zeros(2, len(data.classes)), torch.zeros(2, dtype=torch.int64))
    except (RuntimeError, ValueError) as error:
        raise InputError(f"loss: {error}") from error


def _refuse_another_configuration(job: TrainConfig, start: Start) -> None:
    """A checkpoint brings its weights and its optimiser's settings: others would be ignored."""
    before, now = flatten(start.config), flatten(plain(job))
    for name in sorted(before.keys() | now.keys()):
        fixed = name.split(".")[0] in _FIXED and name not in _FREE
        then, wanted = before.get(name), now.get(name)
        if fixed and then != wanted:
            raise InputError(
                f"{start.path} was trained with {name}={then}, not {wanted}; a resumed run keeps "
                "it, and weights= starts a new one"
            )


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
        console.print(f"continues from {_shown(start.path)}, after step {start.step:,}")


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
    history = run_dir / "metrics.csv"
    if not metrics and history.exists():
        for row in read_history(history):
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
    run_dir: Path, job: TrainConfig, trainer: Trainer, result: dict[str, float], seconds: float
) -> None:
    write_json(run_dir / "metrics.json", result)
    settings = {name: value for name, value in plain(job).items() if name in _HYPERPARAMETERS}
    for board in boards(trainer):
        board.log_result(settings, result)
        board.finalize("success")
    write_report(run_dir)
    print_result(
        result,
        {
            "training time": f"{seconds:.0f} s",
            "run folder": _shown(run_dir),
            "TensorBoard": f"tensorboard --logdir {_shown(run_dir)}",
        },
    )


def _shown(path: Path) -> str:
    """Relative to the working folder where that is shorter to type."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
