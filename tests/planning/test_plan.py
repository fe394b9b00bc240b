"""Predictions: what must hold for any of them, and small cases reckoned by hand."""

import copy
import itertools
from typing import Any

import pytest

from tests.conftest import Compose
from vgglab.config.schema import PlanConfig, parse
from vgglab.errors import InputError
from vgglab.planning import plan as planning
from vgglab.planning.footprint import StepCost, measure_step
from vgglab.planning.hardware import parse_hardware
from vgglab.planning.placing import places_of, steps_of
from vgglab.planning.plan import make_plan
from vgglab.planning.prediction import Transfer, Work, finish

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
MEASURED: dict[Any, StepCost] = {}
STRATEGIES = ("ddp", "ddp_bf16_grads", "ddp_powersgd", "fsdp", "hybrid")


@pytest.fixture(autouse=True)
def measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests are of one network: a step of one size is measured once."""

    def measure(*arguments: Any, **settings: Any) -> StepCost:
        _, _, *sizes = arguments
        key = (*sizes, settings["accumulate"])
        if key not in MEASURED:
            MEASURED[key] = measure_step(*arguments, **settings)
        return MEASURED[key]

    monkeypatch.setattr(planning, "measure_step", measure)


@pytest.fixture
def job(composed: Compose, request: pytest.FixtureRequest) -> PlanConfig:
    """A test's parameter names the accelerator."""
    accelerator = getattr(request, "param", "ddp")
    return parse(composed("plan", *RUN, f"accelerator={accelerator}"), PlanConfig)


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
    (before,) = make_plan(changed(job, devices=[16], image_bytes=1e5)).points
    for name in (
        "memory_gb_s",
        "matrix_tflops.tf32",
        "link.gb_s",
        "network.gb_s",
        "host_gb_s",
        "storage_gb_s",
    ):
        better = changed(job, {name: 2}, devices=[16], image_bytes=1e5)
        assert make_plan(better).points[0].seconds.total <= before.seconds.total, name
    worse = changed(job, {"link.latency_us": 2}, devices=[16], image_bytes=1e5)
    assert make_plan(worse).points[0].seconds.total > before.seconds.total


def test_arithmetic_and_memory_traffic_bound_the_time_of_one_device(job: PlanConfig) -> None:
    planner = planning.Planner(job)
    point, cost = planner.predict(1, 1, 64), planner.cost(64)
    flops = (cost.forward_flops + cost.backward_flops) / planner.hardware.matrix_rate("32-true")
    moved = sum(layer.forward_bytes + layer.backward_bytes for layer in cost.layers)
    traffic = (moved + cost.update_bytes) / planner.hardware.memory_rate
    layers = point.seconds.compute + point.seconds.memory
    assert max(flops, traffic) <= layers <= flops + traffic
    assert point.seconds.network == pytest.approx(0, abs=1e-12)
    assert not point.wire_bytes


def with_memory(job: PlanConfig, gib: float) -> PlanConfig:
    """Of a device, for tensors."""
    reserved, memory = (job.hardware[name]["value"] for name in ("reserved_gib", "memory_gib"))
    return changed(job, {"memory_gib": (reserved + gib) / memory})


def test_the_largest_batch_fits_and_the_next_does_not(job: PlanConfig) -> None:
    small = changed(with_memory(job, 2.5), devices=[4])
    largest = make_plan(small).largest_batch
    assert largest is not None
    assert 4 < largest < 4096
    planner = planning.Planner(small)
    assert planner.predict(4, 1, largest).memory.fits
    assert not planner.predict(4, 1, largest + 4).memory.fits
    (point,) = make_plan(changed(small, batch_size="auto")).points
    assert point.situation.batch_size == largest
    with pytest.raises(InputError, match="a batch of 1 needs"):
        make_plan(with_memory(small, 1))


def test_what_does_not_fit_binds_and_is_marked(job: PlanConfig) -> None:
    plan = make_plan(changed(with_memory(job, 2.5), devices=[1, 64]))
    assert [point.binds == "memory size" for point in plan.points] == [True, False]
    assert "batch_size=auto" in plan.notes[0]


@pytest.mark.parametrize("job", ["fsdp", "hybrid"], indirect=True)
def test_devices_that_shard_keep_the_whole_together(job: PlanConfig) -> None:
    one, eight = (point.memory for point in make_plan(changed(job, devices=[1, 8])).points)
    for part in ("parameters", "gradients", "optimizer"):
        assert getattr(eight, part) == pytest.approx(getattr(one, part) / 8, abs=1)
    assert eight.gathered > 0
    accumulated = changed(job, devices=[8], trainer={"accumulate_grad_batches": 2})
    assert make_plan(accumulated).points[0].memory.gradients == one.gradients


def test_slow_storage_binds_and_gives_what_it_can(job: PlanConfig) -> None:
    slow = changed(job, {"storage_gb_s": 1e-3}, devices=[16], image_bytes=1e5)
    (point,) = make_plan(slow).points
    assert point.binds == "storage"
    rate = 2 * slow.hardware["storage_gb_s"]["value"] * 1e9  # two nodes
    assert point.storage_bytes_per_second == pytest.approx(rate)
    assert point.images_per_second == pytest.approx(rate / 1e5)


def test_accumulation_averages_once_a_step(job: PlanConfig) -> None:
    (once,) = make_plan(changed(job, devices=[8])).points
    four = changed(job, devices=[8], trainer={"accumulate_grad_batches": 4})
    (point,) = make_plan(four).points
    decisions = 100  # bytes; every micro-batch asks whether all go on
    assert once.wire_bytes["all_reduce"] == pytest.approx(
        point.wire_bytes["all_reduce"], abs=decisions
    )
    assert point.situation.steps == once.situation.steps / 4
    assert point.hours < once.hours
    assert point.multiply_adds == 4 * once.multiply_adds


def test_a_strong_curve_leaves_out_what_cannot_be_divided(job: PlanConfig) -> None:
    plan = make_plan(changed(job, devices=[1, 64, 128]))
    assert [point.situation.devices for point in plan.points] == [1, 64]
    assert "left out: 128 devices; they cannot divide the global batch of 64" in plan.notes[0]
    with pytest.raises(InputError, match=r"data.batch_size=64 .* 128 processes"):
        make_plan(changed(job, devices=[128]))
    with pytest.raises(InputError, match="larger than the training set"):
        make_plan(changed(job, devices=[1], images=63))


def test_unknown_images_are_asked_for(composed: Compose) -> None:
    own = [word for word in RUN if not word.startswith("data")]
    own += ["data=image_folder", "data.root=nowhere", "accelerator=ddp"]
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
    layers = [Work(1, 100), Work(5, 10), Work(2, 0)]
    # The first 60 bytes are there after the first layer, as are the next 40.
    sends = [Transfer(2, 60), Transfer(2, 40), Transfer(1, 10)]
    assert finish(layers) == 8
    assert finish(layers, sends=sends) == 8  # sent at 3, 5 and 7
    assert finish(layers, sends=[Transfer(2, 60), Transfer(2, 40), Transfer(9, 10)]) == 15
    assert finish(layers, sends=[Transfer(2, 110)]) == 8  # one bucket, full after the second layer
    assert finish(layers, sends=[Transfer(2, 6), Transfer(5, 5)]) == 11  # a tenth: 11 of 110


def test_a_layer_waits_for_its_parameters_which_come_one_layer_ahead() -> None:
    layers = [Work(1, 10), Work(0, 0), Work(4, 20), Work(1, 30)]
    gathers = [Transfer(2, 10), Transfer(3, 20), Transfer(1, 30)]
    # 0-2 first gather; 2-3 first layer, 2-5 second gather; 5-9 third layer, 5-6 last gather
    assert finish(layers, gathers) == 10
    assert finish(layers, [Transfer(0, 60)]) == 6
    assert finish(layers, gathers, [Transfer(7, 60)]) == 17
