"""Predictions: what must hold for any of them, and small cases reckoned by hand."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import Compose
from vgglab.config.launch_jobs import PlanConfig
from vgglab.config.schema import parse
from vgglab.errors import InputError
from vgglab.planning import planner
from vgglab.planning.footprint import StepCost, measure_step
from vgglab.planning.hardware import parse_hardware
from vgglab.planning.placing import places_of, steps_of
from vgglab.planning.plan import make_plan
from vgglab.planning.planner import Planner
from vgglab.planning.prediction import Prediction
from vgglab.planning.timing import Pass, Transfer, finish

RUN = (
    "name=test",
    "experiment=none",
    "model=vgg11",
    "data=synthetic",
    "data.height=224",
    "data.width=224",
    "data.train_size=4096",
    "data.batch_size=64",
    "trainer.max_epochs=2",
)
IMAGENET = ("name=test", "experiment=imagenet_vgg16")
MEASURED: dict[Any, StepCost] = {}
JOBS: dict[str, PlanConfig] = {}
STRATEGIES = ("ddp", "ddp_bf16_grads", "ddp_powersgd", "fsdp", "hybrid")


@pytest.fixture(autouse=True)
def measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What several tests need is measured for the first of them."""

    def measure(make_network: Any, *sizes: Any, **settings: Any) -> StepCost:
        given = dict(settings)
        optimizer = given.pop("make_optimizer")([nn.Parameter(torch.zeros(1))])
        key = (str(make_network()), sizes, str(optimizer), str(sorted(given.items())))
        if key not in MEASURED:
            MEASURED[key] = measure_step(make_network, *sizes, **settings)
        return MEASURED[key]

    monkeypatch.setattr(planner, "measure_step", measure)


@pytest.fixture
def job(composed: Compose, request: pytest.FixtureRequest) -> PlanConfig:
    """A test's parameter names the accelerator."""
    return job_on(getattr(request, "param", "ddp"), composed)


def job_on(accelerator: str, composed: Compose) -> PlanConfig:
    if accelerator not in JOBS:
        words = (*RUN, f"accelerator={accelerator}")
        JOBS[accelerator] = parse(composed("plan", *words), PlanConfig)
    return JOBS[accelerator]


def predicted(job: PlanConfig, devices: int) -> Prediction:
    """On full nodes of eight, if it is more than one."""
    return Planner(job).predict(devices, max(1, devices // 8), 64)


def changed(job: PlanConfig, hardware: dict[str, float] | None = None, **given: Any) -> PlanConfig:
    """The same job with other settings; of `hardware`, figures by dotted name, times a factor."""
    settings = copy.deepcopy(job.hardware)
    for name, factor in (hardware or {}).items():
        figure = settings
        for key in name.split("."):
            figure = figure[key]
        figure["value"] *= factor
    trainer = job.trainer.model_copy(update=given.pop("trainer", {}))
    return job.model_copy(update={"hardware": settings, "trainer": trainer, **given})


@pytest.mark.parametrize("scaling", ["strong", "weak"])
@pytest.mark.parametrize("job", ["ddp", "ddp_bf16_grads", "ddp_powersgd"], indirect=True)
def test_devices_that_share_the_data_never_pass_the_ideal(job: PlanConfig, scaling: str) -> None:
    points = make_plan(changed(job, devices=[1, 2, 8, 16, 64], scaling=scaling)).points
    assert [point.situation.devices for point in points] == [1, 2, 8, 16, 64]
    assert points[0].efficiency == 1
    for point in points:
        assert 0 < point.efficiency <= 1
        assert point.device_hours == pytest.approx(point.hours * point.situation.devices)
        step = point.seconds.total
        assert point.hours == pytest.approx(point.situation.steps * step / 3600)
        assert point.images_per_second == pytest.approx(point.situation.batch_size / step)
    if scaling == "weak":
        assert all(a.images_per_second < b.images_per_second for a, b in itertools.pairwise(points))
        assert len({point.memory.peak for point in points if point.situation.devices > 1}) == 1


def test_ddp_sends_each_gradient_twice_around_the_ring(job: PlanConfig) -> None:
    for point in make_plan(changed(job, devices=[2, 8, 16])).points:
        n, parameters = point.situation.devices, point.memory.parameters
        decisions = 100  # bytes; whether all go on
        sent = point.wire_bytes["all_reduce"]
        assert 0 <= sent - 2 * (n - 1) / n * parameters <= decisions


@pytest.mark.parametrize("job", STRATEGIES, indirect=True)
def test_better_hardware_is_never_slower(job: PlanConfig) -> None:
    job = changed(job, image_bytes=1e5)
    before = predicted(job, 16)
    for name in (
        "memory_gb_s",
        "matrix_tflops.tf32",
        "link.gb_s",
        "network.gb_s",
        "host_gb_s",
        "storage_gb_s",
    ):
        better = changed(job, {name: 2})
        assert predicted(better, 16).seconds.total <= before.seconds.total, name
    worse = changed(job, {"link.latency_us": 2})
    assert predicted(worse, 16).seconds.total > before.seconds.total


def test_arithmetic_and_memory_traffic_bound_the_time_of_one_device(job: PlanConfig) -> None:
    on = Planner(job)
    point, cost = on.predict(1, 1, 64), on.cost(64)
    flops = (cost.forward_flops + cost.backward_flops) / on.hardware.matrix_rate("32-true")
    moved = sum(layer.forward_bytes + layer.backward_bytes for layer in cost.layers)
    traffic = (moved + cost.update_bytes) / on.hardware.memory_rate
    layers = point.seconds.compute + point.seconds.memory
    assert max(flops, traffic) <= layers <= flops + traffic
    assert point.seconds.network == pytest.approx(0, abs=1e-12)
    assert not point.wire_bytes


def test_what_goes_over_gradients_and_weights_beside_the_optimiser(
    job: PlanConfig, composed: Compose
) -> None:
    def cost(**given: Any) -> StepCost:
        return Planner(changed(job, **given)).cost(64)

    words = (*RUN, "callbacks=[default,ema]")
    averaged = parse(composed("plan", *words), PlanConfig).callbacks
    plain = cost(callbacks={})
    gradients = plain.gradient_bytes
    assert cost().update_bytes == plain.update_bytes + gradients  # the finite callback reads them
    clipped = cost(trainer={"gradient_clip_val": 1.0})
    assert clipped.update_bytes == plain.update_bytes + 4 * gradients
    weights = plain.parameter_bytes
    assert cost(callbacks=averaged).update_bytes == plain.update_bytes + gradients + 3 * weights
    before, after = predicted(job, 8).memory, predicted(changed(job, callbacks=averaged), 8).memory
    assert after.peak - before.peak == after.averages == weights


def with_memory(job: PlanConfig, gib: float) -> PlanConfig:
    """Of a device, for tensors."""
    reserved, memory = (job.hardware[name]["value"] for name in ("reserved_gib", "memory_gib"))
    return changed(job, {"memory_gib": (reserved + gib) / memory})


def test_the_largest_batch_fits_and_the_next_does_not(job: PlanConfig) -> None:
    small = changed(with_memory(job, 2.5), devices=[4])
    largest = make_plan(small).largest_batch
    assert largest is not None
    assert 4 < largest < 4096
    on = Planner(small)
    assert on.predict(4, 1, largest).memory.fits
    assert not on.predict(4, 1, largest + 4).memory.fits
    (point,) = make_plan(changed(small, batch_size="auto")).points
    assert point.situation.batch_size == largest
    with pytest.raises(InputError, match="a batch of 1 needs"):
        make_plan(with_memory(small, 1))


@pytest.mark.parametrize(
    ("job", "scaling"),
    [("ddp_powersgd", None), ("fsdp", None), ("ddp", "strong")],
    indirect=["job"],
)
def test_the_largest_batch_of_a_curve_suits_all_its_devices(job: PlanConfig, scaling: Any) -> None:
    given = {"devices": [1, 8, 16], "batch_size": "auto", "images": 1000, "scaling": scaling}
    curve = changed(with_memory(job, 3), **given)
    points = make_plan(curve).points
    assert [point.situation.devices for point in points] == [1, 8, 16]
    assert all(point.memory.fits for point in points)
    sizes = [point.situation.batch_size for point in points]
    if scaling == "strong":
        assert len(set(sizes)) == 1
    else:
        own = sizes[0]
        assert sizes == [own, 8 * own, 16 * own]
        more = [Planner(curve).predict(n, max(1, n // 8), n * (own + 1)) for n in (1, 8)]
        assert 16 * (own + 1) > 1000 or not all(point.memory.fits for point in more)


def test_a_batch_that_cannot_be_divided_is_refused_first(
    job: PlanConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "measure_step", None)
    with pytest.raises(InputError, match=r"data.batch_size=64 .* 7 processes; use 63 or 70"):
        make_plan(changed(job, devices=7))


@pytest.mark.parametrize("job", ["ddp_powersgd"], indirect=True)
def test_the_title_names_the_compression_and_the_notes_what_is_assumed(job: PlanConfig) -> None:
    plan = make_plan(changed(job, devices=[2, 8]))
    assert "2 to 8 x NVIDIA H200 SXM, ddp powersgd, 32-true, batch 32 a device" in plan.title
    assert "hardware.reserved_gib.value=3" in " ".join(plan.notes)
    assert plan.notes[-1].startswith("a bound")


def test_compressed_gradients_are_sent_sooner(composed: Compose) -> None:
    names = ("ddp", "ddp_bf16_grads", "ddp_powersgd")
    plain, half, thin = (predicted(job_on(n, composed), 16).seconds.sent for n in names)
    assert half < 0.6 * plain
    assert thin < half


def test_what_does_not_fit_binds_and_is_marked(job: PlanConfig) -> None:
    plan = make_plan(changed(with_memory(job, 2.5), devices=[1, 64], scaling="strong"))
    assert [point.binds == "memory size" for point in plan.points] == [True, False]
    assert "batch_size=auto" in plan.notes[0]


@pytest.mark.parametrize("job", ["fsdp", "hybrid"], indirect=True)
def test_devices_that_shard_keep_the_whole_together(job: PlanConfig) -> None:
    one, eight = (predicted(job, devices).memory for devices in (1, 8))
    for part in ("parameters", "gradients", "optimizer"):
        assert getattr(eight, part) == pytest.approx(getattr(one, part) / 8, abs=1)
    assert eight.gathered > 0
    accumulated = changed(job, trainer={"accumulate_grad_batches": 2})
    whole = predicted(accumulated, 8).memory.gradients / one.gradients
    if Planner(job).strategy == "fsdp":
        assert whole == pytest.approx(1, rel=1e-3)  # but for padded rows
    else:  # it never has the others' parts of fc6 and fc7
        assert 1 / 8 < whole < 1


def test_slow_storage_binds_and_is_told_what_it_must_give(job: PlanConfig) -> None:
    free = predicted(job, 16)
    slow = changed(job, {"storage_gb_s": 1e-3}, image_bytes=1e5)
    point = predicted(slow, 16)
    assert point.binds == "storage"
    rate = 2 * slow.hardware["storage_gb_s"]["value"] * 1e9  # two nodes
    assert point.images_per_second == pytest.approx(rate / 1e5)
    assert point.storage_bytes_per_second == pytest.approx(free.images_per_second * 1e5)
    enough = {"storage_gb_s": point.storage_bytes_per_second / rate}
    assert predicted(changed(slow, enough), 16).seconds.storage == pytest.approx(0, abs=1e-9)


def test_accumulation_averages_once_a_step(job: PlanConfig) -> None:
    once = predicted(job, 8)
    point = predicted(changed(job, trainer={"accumulate_grad_batches": 4}), 8)
    decisions = 100  # bytes; every micro-batch asks whether all go on
    assert once.wire_bytes["all_reduce"] == pytest.approx(
        point.wire_bytes["all_reduce"], abs=decisions
    )
    assert point.situation.steps == once.situation.steps / 4
    assert point.hours < once.hours
    assert point.multiply_adds == 4 * once.multiply_adds


def test_a_strong_curve_leaves_out_what_cannot_be_divided(job: PlanConfig) -> None:
    plan = make_plan(changed(job, devices=[1, 64, 128], scaling="strong"))
    assert [point.situation.devices for point in plan.points] == [1, 64]
    assert "left out: 128 devices; they cannot divide the global batch of 64" in plan.notes[0]
    with pytest.raises(InputError, match=r"data.batch_size=64 .* 128 processes"):
        make_plan(changed(job, devices=[128]))
    with pytest.raises(InputError, match="larger than the training set"):
        make_plan(changed(job, devices=[1], images=63))


def test_images_in_memory_are_not_read(composed: Compose) -> None:
    words = (*IMAGENET, "data.in_memory=true")
    assert Planner(parse(composed("plan", *words), PlanConfig)).images.mean_bytes == 0


def test_unknown_images_are_asked_for(composed: Compose) -> None:
    own = [word for word in RUN if not word.startswith("data")]
    own += ["data=image_folder", "data.root=nowhere", "devices=[1,2]"]
    with pytest.raises(InputError, match="images=N classes=N"):
        make_plan(parse(composed("plan", *own), PlanConfig))
    plan = make_plan(parse(composed("plan", *own, "images=1000", "classes=7"), PlanConfig))
    assert "image_bytes=N" in " ".join(plan.notes)
    assert plan.points[0].situation.steps == 2 * (1000 // 128)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [(8, 1)]),  # accelerator.devices=auto: all of a node
        ({"devices": 4}, [(4, 1)]),
        ({"devices": 8, "num_nodes": 4}, [(32, 4)]),
        ({"devices": [64, 1, 8]}, [(1, 1), (8, 1), (64, 8)]),
        ({"devices": 16}, "has 8; give num_nodes=N"),
        ({"devices": [12]}, "devices=12 do not fill nodes"),
        ({"devices": [8], "num_nodes": 2}, "leave num_nodes out"),
    ],
)
def test_devices_and_nodes(job: PlanConfig, given: dict[str, Any], expected: Any) -> None:
    hardware = parse_hardware(job.hardware)
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            places_of(changed(job, **given), hardware)
    else:
        assert places_of(changed(job, **given), hardware) == expected


def test_a_range_is_its_powers_of_two(composed: Compose) -> None:
    found = parse(composed("plan", *RUN, "devices=3..4096"), PlanConfig).devices
    assert found == [2**exponent for exponent in range(2, 13)]
    with pytest.raises(InputError, match="devices"):
        parse(composed("plan", *RUN, "devices=5..7"), PlanConfig)


@pytest.mark.parametrize(
    ("trainer", "steps"),
    [
        ({}, 2 * 10),  # 1,010 images in batches of 100
        ({"accumulate_grad_batches": 4}, 2 * 3),
        ({"max_steps": 15}, 15),
        ({"max_epochs": None, "max_steps": 33}, 33),
        ({"limit_train_batches": 0.35}, 2 * 3),
        ({"limit_train_batches": 4}, 2 * 4),
    ],
)
def test_steps(job: PlanConfig, trainer: dict[str, Any], steps: int) -> None:
    assert steps_of(changed(job, trainer=trainer), 1010, 100) == steps


def test_gradients_go_out_while_the_next_layers_work() -> None:
    layers = [Pass(1, 100), Pass(5, 10), Pass(2, 0)]
    # The first 60 bytes are there after the first layer, as are the next 40.
    sends = [Transfer(2, 60), Transfer(2, 40), Transfer(1, 10)]
    assert finish(layers) == 8
    assert finish(layers, sends=sends) == 8  # sent at 3, 5 and 7
    assert finish(layers, sends=[Transfer(2, 60), Transfer(2, 40), Transfer(9, 10)]) == 15
    assert finish(layers, sends=[Transfer(2, 110)]) == 8  # one bucket, full after the second layer
    # Of the second bucket three parts, one after another from 6 on.
    assert finish(layers, sends=[Transfer(9, 100), *[Transfer(1, n) for n in (10, 0, 0)]]) == 13


def test_a_layer_waits_for_its_parameters_which_come_one_layer_ahead() -> None:
    layers = [Pass(1, 10), Pass(0, 0), Pass(4, 20), Pass(1, 30)]
    gathers = [Transfer(2, 10), Transfer(3, 20), Transfer(1, 30)]
    # 0-2 first gather; 2-3 first layer, 2-5 second gather; 5-9 third layer, 5-6 last gather
    assert finish(layers, gathers) == 10
    assert finish(layers, [Transfer(0, 60)]) == 6
    assert finish(layers, gathers, [Transfer(7, 60)]) == 17


# With their known figures: the command and the paper's section 3.3.


def test_vgg16_on_four_nodes_of_h200(composed: Compose) -> None:
    words = ("accelerator=ddp", "devices=8", "num_nodes=4", "hardware=h200")
    on = Planner(parse(composed("plan", *IMAGENET, *words), PlanConfig))
    assert on.places == [(32, 4)]
    point, parameters = on.predict(32, 4, on.batch_size), 138_357_544
    for part in (point.memory.parameters, point.memory.gradients, point.memory.optimizer):
        assert part == 4 * parameters
    assert point.memory.fits
    assert point.multiply_adds == pytest.approx(3 * 15.47e9 * 256, rel=0.01)  # 11.9 T
    assert point.wire_bytes["all_reduce"] == pytest.approx(2 * 31 / 32 * 4 * parameters, abs=100)
    assert point.situation.steps == 500_400
    sent = on.sent(32, 4, 8)
    assert on.strategy == "ddp"
    assert sent["ddp"] == point.wire_bytes["all_reduce"]  # 1.07 GB
    assert sent["ddp bf16"] == pytest.approx(sent["ddp"] / 2, rel=1e-3)
    assert sent["fsdp"] == pytest.approx(1.5 * sent["ddp"], rel=0.02)
    assert sent["ddp powersgd"] < sent["ddp"] / 50 < sent["hybrid"] < sent["ddp"] / 2


def test_vgg16_up_to_4096_devices(composed: Compose) -> None:
    words = ("accelerator=ddp", "devices=1..4096")
    plan = make_plan(parse(composed("plan", *IMAGENET, *words), PlanConfig))
    assert [point.situation.devices for point in plan.points] == [2**n for n in range(13)]
    assert {p.situation.batch_size // p.situation.devices for p in plan.points} == {256}
    speeds = [point.images_per_second for point in plan.points]
    assert speeds == sorted(speeds)
    assert not any("left out" in note for note in plan.notes)


def test_the_papers_four_gpus(composed: Compose) -> None:
    words = (
        "name=test",
        "experiment=paper/vgg16",
        "accelerator=ddp",
        "devices=1..4",
        "scaling=strong",
        "hardware=titan_black",
        "trainer.precision=32-true",
    )
    one, _, four = make_plan(parse(composed("plan", *words), PlanConfig)).points
    assert four.images_per_second / one.images_per_second == pytest.approx(3.98, abs=0.005)
    weeks = four.hours / (7 * 24)
    assert 2 < weeks < 3
