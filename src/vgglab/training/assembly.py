"""The parts of a run, from its configuration."""

from pathlib import Path

import torch
from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import Logger
from torch import nn

from vgglab.cluster.preemption import Preemption
from vgglab.cluster.strategies import refuse_misfit, strategy
from vgglab.config.schema import TrainConfig, plain
from vgglab.config.typed import flatten
from vgglab.dashboard.over_time import GradCamOverTime
from vgglab.data import ImageDataModule
from vgglab.data.sampling import per_device_batch_size
from vgglab.errors import InputError
from vgglab.networks import load_weights
from vgglab.networks.weights import misfits
from vgglab.ranks import local_rank
from vgglab.reporting.history import CSVHistory
from vgglab.training.callbacks import Checkpoint
from vgglab.training.checkpointing import CheckpointWriter, Start
from vgglab.training.classifier import Classifier, horizon_of
from vgglab.training.optim import parameter_groups
from vgglab.training.skipped import SkippedImages

# What a resumed run may not change, and what of it may differ on another machine.
_FIXED = ("model", "optimizer", "loss", "data", "seed", "decay_norm_and_bias")
_OF_A_RUN = ("scheduler", "trainer", "callbacks", "weights")
_FREE = (
    "data.root",
    "data.uri",
    "data.endpoint",
    "data.anonymous",
    "data.cache_dir",
    "data.max_cache_size",
    "data.retry_seconds",
    "data.num_workers",
    "data.memory_limit_gib",
    "data.on_device",
    "data.on_error",  # a run that a broken image ended may go on without it
)


def build_data(job: TrainConfig) -> ImageDataModule:
    """The data, prepared and found whole by one process of each node."""
    data: ImageDataModule = job.data.build("data")
    if local_rank() == 0:
        # Before anything is written, so that a missing folder costs nothing; one process a node
        # downloads, the others find the files when Lightning lets them continue.
        data.prepare_data()
        for stage in ("fit", "test") if job.test else ("fit",):
            data.setup(stage)
    return data


def build_network(job: TrainConfig, data: ImageDataModule, start: Start | None) -> nn.Module:
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


def build_trainer(
    job: TrainConfig, data: ImageDataModule, start: Start | None, preemption: Preemption
) -> Trainer:
    """Lightning's trainer, with the run's callbacks and loggers."""
    how = job.trainer.model_dump(exclude={"channels_last", "compile", "async_checkpoints"})
    callbacks = [preemption, *_callbacks(job, start)]
    if data.on_error == "skip":
        callbacks.append(SkippedImages(job.run_dir))
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
    preemption.take_over(trainer)
    if trainer.precision != job.trainer.precision:  # on a CPU Lightning makes bf16 of fp16
        raise InputError(
            f"trainer.precision={job.trainer.precision} cannot be had on this machine; "
            f"{trainer.precision} can"
        )
    return trainer


def _loggers(job: TrainConfig, resume_step: int | None) -> list[Logger]:
    supplied = {"resume_step": resume_step, "hyperparameters": plain(job)}
    loggers = []
    for name, logger in job.logger.items():
        accepted = {k: v for k, v in supplied.items() if logger.accepts(k)}
        loggers.append(logger.build(f"logger.{name}", **accepted))
    if not any(isinstance(logger, CSVHistory) for logger in loggers):
        # Whatever else is chosen: resuming, the report and comparisons read it.
        loggers.append(CSVHistory(job.run_dir, resume_step))
    return loggers


def _callbacks(job: TrainConfig, start: Start | None) -> list[Callback]:
    callbacks = []
    for name, callback in job.callbacks.items():
        try:
            callbacks.append(callback.build(f"callbacks.{name}"))
        except MisconfigurationException as error:
            raise InputError(f"callbacks.{name}: {error}") from error
    if not any(isinstance(callback, Checkpoint) and callback.follows for callback in callbacks):
        # For a run that is told to stop, which writes no other checkpoint.
        folder = Path(job.run_dir) / "checkpoints"
        callbacks.append(Checkpoint(dirpath=folder, filename="last", every_n_epochs=0))
    averages = any(isinstance(callback, WeightAveraging) for callback in callbacks)
    if start is not None and start.averages != averages:
        with_or_without = "with" if start.averages else "without"
        raise InputError(
            f"{start.path} was trained {with_or_without} a moving average of the weights "
            "(callbacks=[default,ema]); a resumed run keeps it, and weights= starts a new one"
        )
    return callbacks


def build_classifier(job: TrainConfig, data: ImageDataModule, network: nn.Module) -> Classifier:
    """The LightningModule; its checkpoints say what it was made from."""
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


def rehearse(classifier: Classifier, data: ImageDataModule, trainer: Trainer) -> None:
    """Make what Lightning makes only after the run's folder is written: refusals come now."""
    per_device_batch_size(data.batch_size, trainer.world_size)
    refuse_misfit(trainer, classifier.network)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradCamOverTime):
            callback.refuse_misfit(classifier.network)
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
    # Nobody said that this is the same run: then it must be.
    kept = _FIXED if job.resume is not None else (*_FIXED, *_OF_A_RUN)
    for name in sorted(before.keys() | now.keys()):
        fixed = name.split(".")[0] in kept and name not in _FREE
        then, wanted = before.get(name), now.get(name)
        if fixed and then != wanted:
            raise InputError(
                f"{start.path} was trained with {name}={then}, not {wanted}; a resumed run keeps "
                "it, another hydra.run.dir (with weights=, if you like) starts a new one"
            )
