"""Predicts one configuration of a training run on any number of devices."""

from dataclasses import replace

import torch
from torch import nn

from vgglab.cluster.sharding import tensor_parallel_size
from vgglab.cluster.traffic import Collective, collectives
from vgglab.config.launch_jobs import PlanConfig
from vgglab.config.schema import AcceleratorConfig
from vgglab.data import ImageDataModule
from vgglab.data.sampling import per_device_batch_size
from vgglab.errors import InputError
from vgglab.planning.footprint import StepCost, largest_batch, measure_step
from vgglab.planning.hardware import parse_hardware
from vgglab.planning.memory import held_by, memory_of, share_dense
from vgglab.planning.placing import Situation, images_of, places_of, steps_of
from vgglab.planning.prediction import Prediction, predict, sent_bytes
from vgglab.progress import Advance

_TRAINED = ("weights", "init_from")  # arguments of a network that name trained weights
_STRATEGIES = (
    ("ddp", "none"),
    ("ddp", "bf16"),
    ("ddp", "powersgd"),
    ("fsdp", "none"),
    ("hybrid", "none"),
)


class Planner:
    """Predicts one configuration on any number of devices.

    Args:
        job: the configuration.
        advance: told of each batch size that was measured, which takes a moment.

    Raises:
        InputError: the configuration names what is not known, or does not fit together.
    """

    def __init__(self, job: PlanConfig, advance: Advance = lambda sizes: None) -> None:
        self.job = job
        self._advance = advance
        self.hardware = parse_hardware(job.hardware)
        self.hardware.matrix_rate(job.trainer.precision)  # refuses what it has not
        section = job.data
        if section.accepts("in_memory"):
            section = section.with_arguments(in_memory=False)  # it would look at the files
        data = section.build("data")
        if not isinstance(data, ImageDataModule):
            raise InputError(f"data._target_={section.target} is no ImageDataModule of vgglab")
        self.batch_size = data.batch_size
        self.places = places_of(job, self.hardware)
        self.scaling = job.scaling or ("weak" if len(self.places) > 1 else "strong")
        self.images = images_of(job, data)
        self.shape = (data.preprocessing.channels, *data.preprocessing.size)
        self.network = self._network()
        self._costs: dict[int, StepCost] = {}

    @property
    def strategy(self) -> str:
        return _name(self._accelerator)

    @property
    def _accelerator(self) -> AcceleratorConfig:
        """With what Lightning makes of `auto`, where there are several devices."""
        accelerator = self.job.accelerator
        chosen = "ddp" if accelerator.strategy == "auto" else accelerator.strategy
        return accelerator.model_copy(update={"strategy": chosen})

    def _network(self) -> nn.Module:
        model = self.job.model
        trained = {name: None for name in _TRAINED if name in model.arguments}
        with torch.device("meta"):
            network: nn.Module = model.with_arguments(**trained).build_for(
                self.images.classes, self.shape[0]
            )
        return network

    def cost(self, batch_size: int) -> StepCost:
        """Of a device that has everything; measured once."""
        job = self.job
        if batch_size not in self._costs:
            measured = measure_step(
                self._network,
                self.shape,
                batch_size,
                self.images.classes,
                loss=job.loss.build("loss"),
                make_optimizer=lambda params: job.optimizer.build("optimizer", params=params),
                precision=job.trainer.precision,
                channels_last=job.trainer.channels_last,
                accumulate=job.trainer.accumulate_grad_batches,
                place=self.hardware.place,
            )
            self._costs[batch_size] = self._with_callbacks(measured)
            self._advance(1)
        return self._costs[batch_size]

    def _with_callbacks(self, cost: StepCost) -> StepCost:
        """With what goes over all gradients or weights beside the optimiser."""
        trainer = self.job.trainer
        times = 2 if trainer.precision == "16-mixed" else 0  # the scale is taken out in place
        times += trainer.accumulate_grad_batches if "finite" in self.job.callbacks else 0
        if trainer.gradient_clip_val:
            times += 3 if trainer.gradient_clip_algorithm == "norm" else 2
        moved = times * cost.gradient_bytes + 3 * self._averages * cost.parameter_bytes
        return replace(cost, update_bytes=cost.update_bytes + moved)

    @property
    def _averages(self) -> int:
        """Copies of the weights that hold moving averages."""
        return 1 if "ema" in self.job.callbacks else 0

    def predict(self, devices: int, nodes: int, batch_size: int) -> Prediction:
        """On so many devices in all; `batch_size` is the global one, of a micro-batch.

        Raises:
            InputError: the batch cannot be divided or is larger than the training set.
        """
        own = per_device_batch_size(batch_size, devices)
        one = batch_size if self.scaling == "strong" else own
        alone = None if devices == 1 else self.predict(1, 1, one)
        cost, issued, situation = self._setting(devices, nodes, own)
        return predict(cost, issued, self.hardware, situation, alone)

    def largest_batch(
        self, devices: int, nodes: int, *, most: int | None = None, multiple_of: int = 1
    ) -> int:
        """The largest global batch that fits in memory and is no larger than the training set.

        Args:
            devices: in all.
            nodes: that they are in.
            most: images a device.
            multiple_of: of which the images a device are to be a multiple.

        Raises:
            InputError: not even one image a device, or `multiple_of`.
        """
        most = self.images.count // devices if most is None else most
        most = max(multiple_of, most)
        usable = self.hardware.usable_bytes

        def peak_of(own: int) -> int:
            cost, _, situation = self._setting(devices, nodes, own)
            return memory_of(cost, usable, situation.held).peak

        return devices * largest_batch(peak_of, usable, multiple_of=multiple_of, most=most)

    def sent(self, devices: int, nodes: int, own: int) -> dict[str, int]:
        """By strategy, bytes that a device sends in an optimiser step."""
        sent = {}
        for strategy, compression in _STRATEGIES if devices > 1 else ():
            update = {"strategy": strategy, "gradient_compression": compression}
            accelerator = self.job.accelerator.model_copy(update=update)
            try:
                issued, _ = self._issued(accelerator, devices, nodes, own)
            except InputError:  # hybrid, of another network or number of devices
                continue
            kinds = sent_bytes(issued, self.job.trainer.accumulate_grad_batches)
            sent[_name(accelerator)] = sum(kinds.values())
        return sent

    def _issued(
        self, accelerator: AcceleratorConfig, devices: int, nodes: int, own: int
    ) -> tuple[list[Collective], int]:
        """What a micro-batch sends, and how many devices share fc6 and fc7."""
        parallel = 1
        if accelerator.strategy == "hybrid":
            parallel = tensor_parallel_size(
                accelerator.tensor_parallel, self.network, devices // nodes, devices
            )
        precision = self.job.trainer.precision
        issued = collectives(self.network, accelerator, devices, parallel, own, precision)
        return issued, parallel

    def _setting(
        self, devices: int, nodes: int, own: int
    ) -> tuple[StepCost, list[Collective], Situation]:
        """One device's cost, what it sends, and where it is; `own` images of a micro-batch."""
        trainer, accelerator = self.job.trainer, self._accelerator
        issued, parallel = self._issued(accelerator, devices, nodes, own)
        cost = self.cost(own)
        if parallel > 1:
            cost = share_dense(cost, self.cost(1), parallel, alone=parallel == devices)
        held = held_by(accelerator, devices, trainer.accumulate_grad_batches, cost, issued)
        batch_size = own * devices
        channels, height, width = self.shape
        situation = Situation(
            devices=devices,
            nodes=nodes,
            batch_size=batch_size,
            accumulate=trainer.accumulate_grad_batches,
            steps=steps_of(self.job, self.images.count, batch_size),
            precision=trainer.precision,
            held=replace(held, averages=self._averages),
            image_bytes=self.images.mean_bytes or 0.0,
            pixel_bytes=channels * height * width,
        )
        return cost, issued, situation


def _name(accelerator: AcceleratorConfig) -> str:
    compression = accelerator.gradient_compression
    return (
        accelerator.strategy if compression == "none" else f"{accelerator.strategy} {compression}"
    )
