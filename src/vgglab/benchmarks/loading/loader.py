"""A training run's loader against torchvision's reference, and against the network it feeds.

In each round the loader delivers some batches, then the reference's does, then the network trains:
a change in the machine's speed meets all three. Each works alone, the loaders with as many workers.
"""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader

from vgglab.benchmarks.clock import one_thread, wait_for
from vgglab.benchmarks.loading.loader_speed import LoaderSpeed, Round
from vgglab.benchmarks.loading.reference import ReferenceImages
from vgglab.benchmarks.loading.stages import measure_stages
from vgglab.benchmarks.loading.training_rate import TrainingRate
from vgglab.config.benchmark_jobs import LoaderBenchmark
from vgglab.cores import usable_cores
from vgglab.data import ImageDataModule
from vgglab.data.batches import Batch, BatchView
from vgglab.data.encoded import AnyBatchMaker, EncodedBatchMaker
from vgglab.data.sampling import BatchKeys, per_device_batch_size
from vgglab.errors import InputError
from vgglab.progress import each
from vgglab.reporting.environment import environment

_SECONDS = 0.5  # of each loader in a round, at least
_STAGED = 64  # images that a round takes through the stages


def measure_loader(job: LoaderBenchmark) -> LoaderSpeed:
    """Time the configured source as training uses it.

    Raises:
        InputError: the data cannot be had, or the configuration does not fit.
    """
    trainer = _trainer(job)
    device = trainer.strategy.root_device
    processes, nodes = _processes(job, device), job.accelerator.num_nodes
    data = _data(job, trainer, processes * nodes)
    workers = data.train_dataloader().num_workers
    # Whole turns of the workers, which deliver in bursts, after one turn that is not timed.
    burst = max(workers, 1)
    timed = burst * (1 + -(-job.steps // burst)) * data.batch_size
    staged = min(data.batch_size, _STAGED)
    turns = range(job.rounds + 1)
    train, order = data.sets["train"], _reading_order(data, timed + staged * len(turns))
    # The end of its epoch finds no worker at work, which would take from the other side's turn.
    data.sets["train"] = train.subset(order[:timed])
    loader = data.train_dataloader()
    maker: AnyBatchMaker | None = loader.dataset.make  # type: ignore[attr-defined]
    images = ReferenceImages(data.sets["train"], data)
    reference = _reference_loader(images, data.batch_size, workers, device)
    network = TrainingRate(job, data, _first_batch(data, maker, device), device)
    rounds = []
    for turn in each(turns, "rounds", unit="rounds"):
        load = os.getloadavg()[0]
        loader.sampler.resume(turn, 0)
        ours = _rate(loader, partial(_cropped, data), burst, device)
        theirs = _rate(reference, _pixels, burst, device)
        trained = network.measure()
        with one_thread():
            fresh = train.subset(order[timed + turn * staged :][:staged])
            stages = measure_stages(data, fresh, maker, device)
        rounds.append(Round(ours, theirs, trained, *stages, load))
    hardware = environment()["hardware"]
    return LoaderSpeed(
        rounds=rounds[1:],  # the first was the warm-up
        data=type(data).__name__,
        batch_size=data.batch_size,
        trained_batch_size=network.batch_size,
        workers=workers,
        image_bytes=_mean_bytes(images, staged),
        cores=usable_cores(),
        processes=processes,
        nodes=nodes,
        model=str(job.model.arguments.get("name", job.model.target)),
        precision=job.trainer.precision,
        gpu=hardware["gpus"][device.index or 0]["name"] if device.type == "cuda" else None,
        cpu=hardware["cpu"],
        torch=torch.__version__,
    )


def _trainer(job: LoaderBenchmark) -> Trainer:
    """One process of the run: what the data module asks for its device and its share."""
    for name in ("lightning.pytorch", "lightning.fabric"):  # they tell which devices they found
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*`srun` command is available .*")
    warnings.filterwarnings("ignore", "This DataLoader will create")  # ours says so, too
    try:
        return Trainer(
            accelerator=job.accelerator.accelerator,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except MisconfigurationException as error:
        raise InputError(f"accelerator does not fit this machine: {error}") from error


def _processes(job: LoaderBenchmark, device: torch.device) -> int:
    """Of a node, a device each."""
    devices = job.accelerator.devices
    if devices == "auto":
        return 1 if device.type == "cpu" else torch.accelerator.device_count()
    return devices if isinstance(devices, int) else len(devices)


def _data(job: LoaderBenchmark, trainer: Trainer, world_size: int) -> ImageDataModule:
    """What one of `world_size` processes would load, found whole."""
    data: ImageDataModule = job.data.build("data")
    data.batch_size = per_device_batch_size(data.batch_size, world_size)
    data.trainer = trainer
    data.prepare_data()
    data.setup("fit")
    return data


def _reading_order(data: ImageDataModule, images: int) -> Tensor:
    """(images,) int64: which a run would read first, of as many epochs as it takes."""
    sampler = data.train_dataloader().sampler
    order: list[int] = []
    while len(order) < images:
        for keys in sampler:
            order += keys.images
            if len(order) >= images:
                break
        sampler.resume(sampler.epoch + 1, 0)
    return torch.tensor(order[:images])


def _first_batch(data: ImageDataModule, maker: AnyBatchMaker | None, device: torch.device) -> Batch:
    keys = BatchKeys(0, list(range(data.batch_size)))
    batch = BatchView(data.sets["train"], maker, data.seed)[keys]
    return maker.decode(batch, device) if isinstance(maker, EncodedBatchMaker) else batch


def _reference_loader(
    images: ReferenceImages, batch_size: int, workers: int, device: torch.device
) -> DataLoader[tuple[Tensor, int]]:
    return DataLoader(
        images,
        batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )


def _rate(
    loader: Iterable[Any],
    finish: Callable[[Any, torch.device], Tensor],
    first: int,
    device: torch.device,
) -> float:
    """Images/s of whole epochs after their `first` batches, up to uint8 pixels on the device."""
    images, seconds = 0, 0.0
    while seconds < _SECONDS:
        for number, batch in enumerate(loader):
            finished = finish(batch, device)
            if number >= first:
                images += len(finished)
            elif number == first - 1:
                wait_for(device)
                begun = time.perf_counter()
        wait_for(device)
        seconds += time.perf_counter() - begun
    return images / seconds


def _cropped(data: ImageDataModule, batch: Any, device: torch.device) -> Tensor:
    """With what the reference's transforms do in its loader."""
    images, indices = batch.images.to(device), batch.indices.to(device)
    if not data.augment:
        return images
    return data.augmentation.crop_and_flip(images, batch.epoch, indices)


def _pixels(batch: Any, device: torch.device) -> Tensor:
    images: Tensor = batch[0].to(device)
    return images


def _mean_bytes(images: ReferenceImages, number: int) -> float | None:
    if images.pixels is not None:
        return None
    return sum(len(images.read(i)) for i in range(number)) / number
