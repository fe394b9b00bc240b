"""Pictures on the way: when they are drawn, what of, and that training does not notice."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import TINY, Compose
from tests.dashboard.shown import data
from tests.training.runs import curves, job
from vgglab.config.schema import TrainConfig, parse
from vgglab.dashboard.drawing import examples, is_due
from vgglab.dashboard.over_time import GradCamOverTime
from vgglab.errors import InputError
from vgglab.networks import build_vgg
from vgglab.training.run import train


def test_a_run_without_a_test_and_tensorboard_draws_nothing(
    composed: Compose, tmp_path: Path
) -> None:
    bare = ("trainer.max_epochs=1", "test=false", "logger=csv", "callbacks=[essential,pictures]")
    train(job(composed, *bare, run_dir=tmp_path))
    names = {path.name for path in tmp_path.iterdir()}
    assert not names & {"tensorboard", "mistakes.json", "confusion.json"}


def other(target: str) -> tuple[str, ...]:
    """A run with a network that is no VGG, and all pictures."""
    kept = (setting for setting in TINY if not setting.startswith(("model", "experiment")))
    model = ("experiment=none", "~model", f"+model._target_={target}", "+model.num_classes=4")
    return (*model, *kept, "callbacks=default", "trainer.max_epochs=1")


def test_other_networks_train_and_are_told_once_what_they_lack(
    composed: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "vgglab"):
        train(parse(composed("train", *other("torchvision.models.squeezenet1_1")), TrainConfig))
    (message,) = [record.message for record in caplog.records if "Grad-CAM" in record.message]
    assert message == "no Grad-CAM in TensorBoard: the layers of a SqueezeNet have no names"
    shown = curves(tmp_path / "run")
    assert {"network/filters", "network/receptive_field", "test/mistakes"} <= shown.keys()
    assert "network/grad_cam" not in shown


def test_a_network_that_nothing_can_be_drawn_of_trains(
    composed: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dense = (
        *other("tests.dashboard.shown.DenseLayers"),
        "allowed_targets=[tests.dashboard.shown]",
        "data.height=8",
        "data.width=8",
    )
    with caplog.at_level(logging.WARNING, "vgglab"):
        train(parse(composed("train", *dense), TrainConfig))
    lines = [record.message for record in caplog.records]
    assert any(line.startswith("no network/receptive_field in TensorBoard: ") for line in lines)
    assert (tmp_path / "run/metrics.json").exists()


def test_training_goes_on_where_a_picture_fails(
    composed: Compose,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("no memory is left\nTry this")

    monkeypatch.setattr("vgglab.dashboard.over_time.grad_cam", fails)
    settings = ("callbacks=[essential,pictures]", "trainer.max_epochs=1")
    with caplog.at_level(logging.WARNING, "vgglab"):
        train(job(composed, *settings, run_dir=tmp_path))
    lines = [record.message for record in caplog.records]
    line = "no network/grad_cam in TensorBoard: OutOfMemoryError: no memory is left"
    assert lines == [line] * 2  # at the beginning and at the end
    assert (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize("layer", ["fc", "relu9_9"])
def test_a_layer_without_maps_is_bad_input(layer: str, composed: Compose, tmp_path: Path) -> None:
    setting = f"callbacks.grad_cam.layer={layer}"
    with pytest.raises(InputError, match=f"layer={layer} has no maps"):
        train(job(composed, "callbacks=[essential,pictures]", setting, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("labels", "count", "chosen"),
    [
        ("3102201", 8, {0: 2, 1: 1, 2: 3, 3: 0}),
        ("9876543210", 3, {0: 9, 3: 6, 6: 3}),  # of many classes some that are spread
        ("5555", 8, {5: 0}),
    ],
)
def test_examples_are_the_first_image_of_each_class(
    labels: str, count: int, chosen: dict[int, int]
) -> None:
    given = data(labels=labels)
    images, found = examples(given, count)
    assert found.tolist() == list(chosen)
    for image, index in zip(images, chosen.values(), strict=True):
        assert torch.equal(image, given.sets["val"].image(index))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (3, 70)])
def test_a_network_is_left_as_it_was(dtype: torch.dtype, channels: int, size: int) -> None:
    network = build_vgg(
        "vgg11",
        batch_norm=True,
        head="compact",
        width=1 / 16,
        in_channels=channels,
        num_classes=10,
        max_pools=2,
    ).to(dtype)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.random.get_rng_state()
    callback = GradCamOverTime()
    trainer: Any = SimpleNamespace(datamodule=data(channels, size))
    with torch.no_grad():
        picture = callback.picture(trainer, network.eval())
    assert picture is not None
    tile = 128 // size * size
    row, column = tile + 2 * 16 + 8, 2 * tile + 8
    assert picture.shape == (3, 2 * row + 8, 2 * column + 8)  # pairs of an image and its heat
    for place, image in enumerate(trainer.datamodule.sets["val"].images):
        top, left = 8 + place // 2 * row, 8 + place % 2 * column
        assert torch.equal(picture[:, top, left], image[:, 0, 0].expand(3))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.random.get_rng_state(), random)


def test_a_compiled_network_is_not_compiled_for_its_pictures() -> None:
    def compiled(*arguments: object) -> Any:
        raise AssertionError("compiled")

    network = build_vgg("vgg11", head="compact", width=1 / 16, num_classes=10)
    network._compiled_call_impl = compiled  # as `network.compile()` leaves it
    trainer: Any = SimpleNamespace(datamodule=data())
    with torch.no_grad():
        assert GradCamOverTime().picture(trainer, network) is not None
    with pytest.raises(AssertionError, match="compiled"):
        network(torch.zeros(1, 3, 32, 32))


def test_there_is_no_heat_without_names_of_layers() -> None:
    trainer: Any = SimpleNamespace(datamodule=data())
    assert GradCamOverTime().picture(trainer, nn.Sequential(nn.Conv2d(3, 4, 3))) is None


@pytest.mark.parametrize(
    ("state", "due"),
    [
        ({}, False),
        ({"current_epoch": 9}, True),
        ({"current_epoch": 11}, True),  # the last
        ({"max_epochs": None, "max_steps": 50, "global_step": 50}, True),
        ({"max_epochs": None, "max_steps": 51, "global_step": 50}, False),
        ({"should_stop": True}, True),
        ({"current_epoch": 9, "sanity_checking": True}, False),
    ],
)
def test_what_is_due(state: dict[str, Any], due: bool) -> None:
    usual = {"current_epoch": 4, "max_epochs": 12, "max_steps": -1, "global_step": 50}
    flags = {"should_stop": False, "sanity_checking": False}
    trainer: Any = SimpleNamespace(**usual | flags | state)
    assert is_due(trainer, 10) == due
