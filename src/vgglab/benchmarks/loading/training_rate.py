"""How many images a second the network trains on, once they are on its device."""

import time

import torch
from lightning import Fabric
from torch import nn

from vgglab.benchmarks.clock import wait_for
from vgglab.config.benchmark_jobs import LoaderBenchmark
from vgglab.data import ImageDataModule
from vgglab.data.batches import Batch
from vgglab.errors import InputError

_SECONDS = 1.0  # at least so long, and at least one step
# Images of a step: a CPU hardly gains from more, and VGG-16 takes it a second or more for two.
_ON_A_CPU = 2


class TrainingRate:
    """Training steps on one batch that stays on the device: input, loss, gradients, optimiser.

    Args:
        job: of its model, precision and memory format.
        data: turns batches into the network's input.
        batch: of the loader.
        device: where the network is.

    Raises:
        InputError: the images are too small for the network, or the batch too large for the device.
    """

    def __init__(
        self, job: LoaderBenchmark, data: ImageDataModule, batch: Batch, device: torch.device
    ) -> None:
        images = _ON_A_CPU if device.type == "cpu" else len(batch.labels)
        self.data = data
        self.device = device
        self.batch = batch._replace(
            images=batch.images[:images].to(device),
            labels=batch.labels[:images].to(device),
            indices=batch.indices[:images].to(device),
        )
        channels_last = job.trainer.channels_last
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        network = job.model.build_for(len(data.classes), data.preprocessing.channels)
        network.to(memory_format=self.format)
        if job.trainer.compile:
            network.compile()
        self.fabric = Fabric(
            accelerator=device.type,
            devices=1 if device.index is None else [device.index],
            precision=job.trainer.precision,
        )
        # It costs what `optimizer=sgd` does; the time of other optimisers differs by little.
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
        self.network, self.optimizer = self.fabric.setup(network, optimizer)
        try:
            self._step()
        except (RuntimeError, ValueError) as error:
            raise InputError(f"the network cannot train on a batch: {error}") from error

    @property
    def batch_size(self) -> int:
        """Images of a step; on a CPU fewer than training takes."""
        return len(self.batch.labels)

    def measure(self) -> float:
        """Images/s."""
        steps = 0
        begun = time.perf_counter()
        while (seconds := time.perf_counter() - begun) < _SECONDS or not steps:
            self._step()
            wait_for(self.device)
            steps += 1
        return steps * self.batch_size / seconds

    def _step(self) -> None:
        images, labels = self.data.network_input(self.batch, augment=self.data.augment)
        self.optimizer.zero_grad()
        logits = self.network(images.to(memory_format=self.format))
        self.fabric.backward(nn.functional.cross_entropy(logits, labels))
        self.optimizer.step()
