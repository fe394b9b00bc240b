"""scripts/plan.py: what a training run will take, from its configuration and no data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from vgglab.cluster.sharding import tensor_parallel_size
from vgglab.cluster.traffic import Collective, collectives
from vgglab.config.schema import PlanConfig
from vgglab.data import ImageDataModule
from vgglab.data.sampling import per_device_batch_size
from vgglab.errors import InputError
from vgglab.planning.footprint import StepCost, largest_batch, measure_step
from vgglab.planning.hardware import parse_hardware
from vgglab.planning.placing import images_of, places_of, steps_of
from vgglab.planning.prediction import Prediction, Situation, memory_of, predict

_MOST = 4096  # devices up to which is looked for where the network binds
_SHORT = 2e-3  # seconds
_TRAINED = ("weights", "init_from")  # arguments of a network that name trained weights


@dataclass(frozen=True)
class Plan:
    """All predictions that were asked for."""

    title: str
    points: list[Prediction]
    """By number of devices."""
    largest_batch: int | None
    """Global, that fits; of a single number of devices."""
    notes: list[str]


def make_plan(job: PlanConfig) -> Plan:
    """Predict the run of `job`, on one number of devices or along a curve.

    Raises:
        InputError: the configuration names what is not known, or does not fit together.
    """
    planner = Planner(job)
    places = places_of(job, planner.hardware)
    first = places[0][0]
    batch_size, largest = planner.batch_size, None
    if len(places) == 1 or job.batch_size == "auto":
        largest = planner.largest_batch(*places[0])
        batch_size = largest if job.batch_size == "auto" else batch_size
    own = per_device_batch_size(batch_size, first)
    points: list[Prediction] = []
    left_out = []
    for devices, nodes in places:
        whole = own * devices if job.scaling == "weak" else batch_size
        if points and (whole % devices or whole > planner.images.count):
            left_out.append(f"{devices:,}")
        else:
            points.append(planner.predict(devices, nodes, whole))
    notes = planner.notes(points)
    if left_out:
        why = "the training set is smaller than their batch"
        if job.scaling == "strong":
            why = (
                f"they cannot divide the global batch of {batch_size:,} (scaling=weak lets it grow)"
            )
        notes.insert(0, f"left out: {' '.join(left_out)} devices; {why}")
    return Plan(planner.title(points), points, largest if len(places) == 1 else None, notes)


class Planner:
    """Predicts one configuration on any number of devices.

    Raises:
        InputError: the configuration names what is not known, or does not fit together.
    """

    def __init__(self, job: PlanConfig) -> None:
        self.job = job
        self.hardware = parse_hardware(job.hardware)
        self.hardware.matrix_rate(job.trainer.precision)  # refuses what it has not
        section = job.data
        if section.accepts("in_memory"):
            section = section.with_arguments(in_memory=False)  # it would look at the files
        data = section.build("data")
        if not isinstance(data, ImageDataModule):
            raise InputError(f"data._target_={section.target} is no ImageDataModule of vgglab")
        self.batch_size = data.batch_size
        self.images = images_of(job, data)
        self.shape = (data.preprocessing.channels, *data.preprocessing.size)
        self.network = self._network()
        self._costs: dict[int, StepCost] = {}

    def title(self, points: Sequence[Prediction]) -> str:
        """What runs where."""
        job, last = self.job, points[-1].situation
        name, batch = self.hardware.name, f"batch {points[0].situation.batch_size:,}"
        if len(points) > 1:
            where = f"{points[0].situation.devices:,} to {last.devices:,} x {name}"
            if job.scaling == "weak":
                own = points[0].situation.batch_size // points[0].situation.devices
                batch = f"batch {own:,} a device"
        else:
            where = f"{last.devices:,} x {name}"
            if last.nodes > 1:
                where += f" in {last.nodes:,} nodes"
        strategy = f", {self._strategy}" if last.devices > 1 else ""
        return f"{job.name} on {where}{strategy}, {job.trainer.precision}, {batch}"

    @property
    def _strategy(self) -> str:
        """What Lightning makes of `auto`, where there are several devices."""
        chosen = self.job.accelerator.strategy
        return "ddp" if chosen == "auto" else chosen

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
            self._costs[batch_size] = measure_step(
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
        return self._costs[batch_size]

    def predict(self, devices: int, nodes: int, batch_size: int) -> Prediction:
        """On so many devices in all; `batch_size` is the global one, of a micro-batch.

        Raises:
            InputError: the batch cannot be divided or is larger than the training set.
        """
        own = per_device_batch_size(batch_size, devices)
        one = batch_size if self.job.scaling == "strong" else own
        alone = None if devices == 1 else self.predict(1, 1, one)
        cost, issued, situation = self._setting(devices, nodes, own)
        return predict(cost, issued, self.hardware, situation, alone)

    def largest_batch(self, devices: int, nodes: int) -> int:
        """The largest global batch that fits in memory and is no larger than the training set.

        Raises:
            InputError: not even one image a device.
        """
        most = max(1, self.images.count // devices)
        usable = self.hardware.usable_bytes

        def peak_of(own: int) -> int:
            if own > most:
                return usable + 1
            cost, _, situation = self._setting(devices, nodes, own)
            return memory_of(cost, self.hardware, situation).peak

        own = most if peak_of(most) <= usable else largest_batch(peak_of, usable)
        return devices * own

    def _setting(
        self, devices: int, nodes: int, own: int
    ) -> tuple[StepCost, list[Collective], Situation]:
        """One device's cost, what it sends, and where it is; `own` images of a micro-batch."""
        trainer = self.job.trainer
        accelerator = self.job.accelerator.model_copy(update={"strategy": self._strategy})
        parallel = 1
        if self._strategy == "hybrid":
            parallel = tensor_parallel_size(
                accelerator.tensor_parallel, self.network, devices // nodes, devices
            )
        issued = collectives(self.network, accelerator, devices, parallel, own, trainer.precision)
        cost = self.cost(own)
        if parallel > 1:
            cost = _share_dense(cost, self.cost(1), parallel, alone=parallel == devices)
        shards = self._strategy != "ddp"
        batch_size = own * devices
        channels, height, width = self.shape
        situation = Situation(
            devices=devices,
            nodes=nodes,
            batch_size=batch_size,
            accumulate=trainer.accumulate_grad_batches,
            steps=steps_of(self.job, self.images.count, batch_size),
            precision=trainer.precision,
            kept=1 / devices if shards else 1.0,
            # What accumulates is not sent, and stays whole.
            gradients_kept=1 / devices if shards and trainer.accumulate_grad_batches == 1 else 1.0,
            gathered_bytes=self._gathered(issued, cost.gradient_bytes) if issued else 0,
            image_bytes=self.images.mean_bytes or 0.0,
            pixel_bytes=channels * height * width,
        )
        return cost, issued, situation

    def _gathered(self, issued: Sequence[Collective], gradient_bytes: int) -> int:
        """Bytes that a device holds beside its own part of everything."""
        sent = [c for c in issued if c.overlaps and c.kind in ("all_reduce", "reduce_scatter")]
        sizes = [c.bytes for c in sent for _ in range(c.count)]
        if self._strategy == "ddp":
            compression = self.job.accelerator.gradient_compression
            errors = gradient_bytes if compression == "powersgd" else 0
            return errors + (0 if compression == "none" else sum(sizes))
        gradient = max(sizes)
        if self._strategy == "fsdp":  # a block, and the next one before it is needed
            return gradient + max(a + b for a, b in zip(sizes, [*sizes[1:], 0], strict=True))
        scattered = {(c.bytes, c.group_size) for c in sent}
        features = [
            c.bytes
            for c in issued
            if c.kind in ("all_gather", "reduce_scatter")
            and not c.overlaps
            and (c.bytes, c.group_size) not in scattered
        ]
        # In the forward pass, and the same again in the backward pass.
        return gradient + sum(sizes) + sum(features) // 2

    def notes(self, points: Sequence[Prediction]) -> list[str]:
        """What the numbers do not say by themselves."""
        notes = [self._binding(points[0])] if len(points) == 1 else []
        if len(points) > 1 and not all(point.memory.fits for point in points):
            notes.append("! is more than a device has; batch_size=auto finds the largest that fits")
        if self.images.mean_bytes is None:
            notes.append("storage is left out: give image_bytes=N, the mean size of an image")
        if min(point.seconds.total for point in points) < _SHORT:
            notes.append("so short a step is bound by Python and its launches, which no plan knows")
        return notes

    def _binding(self, point: Prediction) -> str:
        if not point.memory.fits:
            return "memory size binds: the batch does not fit (batch_size=auto does)"
        line = f"{point.binds} binds: {point.shares[point.binds]:.0%} of the step"
        later = None if point.binds == "network" else self._first_bound_by_network(point)
        return line if later is None else f"{line}; the network would bind from {later:,} devices"

    def _first_bound_by_network(self, point: Prediction) -> int | None:
        """Of the doubles of the point's number of devices, at the same global batch or the same
        batch a device."""
        devices, nodes = point.situation.devices, point.situation.nodes
        batch_size = point.situation.batch_size
        while point.binds != "network":
            devices *= 2
            if devices > self.hardware.devices_per_node * nodes:
                nodes *= 2
            batch_size *= 2 if self.job.scaling == "weak" else 1
            if devices > _MOST or batch_size % devices or batch_size > self.images.count:
                return None
            point = self.predict(devices, nodes, batch_size)
        return devices


def _share_dense(cost: StepCost, single: StepCost, parallel: int, *, alone: bool) -> StepCost:
    """The cost of a device that has 1/`parallel` of fc6 and fc7, for the images of as many devices:
    the same arithmetic, and that part of the memory traffic that the weights have.

    Args:
        cost: of a device's own images.
        single: of one image, whose traffic in these layers is that of the weights.
        parallel: devices that share.
        alone: nobody else has this part, so that it is neither gathered nor averaged.
    """
    fc6, fc7, _ = [i for i, layer in enumerate(cost.layers) if layer.parameter_bytes][-3:]
    layers = list(cost.layers)
    for index in (fc6, fc7):
        layer, weights = cost.layers[index], single.layers[index]
        saved = 1 - 1 / parallel
        layers[index] = replace(
            layer,
            forward_bytes=round(layer.forward_bytes - saved * weights.forward_bytes),
            backward_bytes=round(layer.backward_bytes - saved * weights.backward_bytes),
            parameter_bytes=0 if alone else layer.parameter_bytes // parallel,
        )
    return replace(cost, layers=layers)
