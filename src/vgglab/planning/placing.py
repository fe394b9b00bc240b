"""How many devices, images and steps a planned run has: what its configuration leaves to others."""

import math
from dataclasses import dataclass

from vgglab.config.launch_jobs import PlanConfig
from vgglab.data import ImageDataModule
from vgglab.data.sources.known import TrainingImages, known_images
from vgglab.errors import InputError
from vgglab.planning.hardware import Hardware
from vgglab.planning.memory import Held


@dataclass(frozen=True)
class Situation:
    """Where a step runs and what it is a part of."""

    devices: int
    nodes: int
    batch_size: int
    """Of all devices together, one micro-batch."""
    accumulate: int
    """Micro-batches an optimiser step."""
    steps: int
    """Optimiser steps of the whole run."""
    precision: str
    """Lightning's name."""
    held: Held
    image_bytes: float
    """Mean, as stored; 0: nothing is read."""
    pixel_bytes: int
    """Of one image on its way to the device."""


def places_of(job: PlanConfig, hardware: Hardware) -> list[tuple[int, int]]:
    """Devices in all and their nodes, for each prediction that is asked for.

    Raises:
        InputError: devices and nodes contradict each other or the hardware.
    """
    if isinstance(job.devices, list):
        if job.num_nodes is not None:
            raise InputError(
                f"num_nodes={job.num_nodes}: a list or a range counts the devices of all nodes; "
                "leave num_nodes out"
            )
        return [(devices, _nodes_of(devices, hardware)) for devices in sorted(set(job.devices))]
    a_node = hardware.devices_per_node
    configured = job.accelerator.devices
    if isinstance(configured, list):
        configured = len(configured)
    devices = job.devices or (a_node if configured == "auto" else configured)
    if devices > a_node:
        raise InputError(
            f"devices={devices}: a node of {hardware.name} has {a_node}; give num_nodes=N, or "
            f"devices=[{devices}], which counts those of all nodes"
        )
    nodes = job.num_nodes or job.accelerator.num_nodes
    return [(devices * nodes, nodes)]


def _nodes_of(devices: int, hardware: Hardware) -> int:
    nodes, left = divmod(devices, hardware.devices_per_node)
    if nodes and left:
        raise InputError(
            f"devices={devices} do not fill nodes of {hardware.name}, which have "
            f"{hardware.devices_per_node}"
        )
    return max(1, nodes)


def images_of(job: PlanConfig, data: ImageDataModule) -> TrainingImages:
    """The training images: as on the command line, or else as is known of the data set.

    Raises:
        InputError: neither says.
    """
    known = known_images(data)
    count = job.images or (known and known.count)
    classes = job.classes or (known and known.classes)
    if not count or not classes:
        raise InputError(
            f"data._target_={job.data.target}: a plan looks at no files, and does not know this "
            "data; give images=N classes=N, and image_bytes=N, their mean size"
        )
    mean_bytes = job.image_bytes
    if job.data.arguments.get("in_memory") is True:
        mean_bytes = 0.0
    elif mean_bytes is None and known is not None:
        mean_bytes = known.mean_bytes
    return TrainingImages(count, classes, mean_bytes)


def steps_of(job: PlanConfig, images: int, batch_size: int) -> int:
    """The optimiser steps of the whole run, counted as Lightning does.

    Raises:
        InputError: the images are fewer than one batch.
    """
    trainer = job.trainer
    batches = images // batch_size
    if not batches:
        raise InputError(
            f"data.batch_size={batch_size} is larger than the training set ({images} images)"
        )
    limit = trainer.limit_train_batches
    if isinstance(limit, float):
        batches = int(batches * limit)
    elif limit is not None:
        batches = min(batches, limit)
    an_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
    ends = [] if trainer.max_steps == -1 else [trainer.max_steps]
    if trainer.max_epochs is not None:
        ends.append(trainer.max_epochs * an_epoch)
    return min(ends)
