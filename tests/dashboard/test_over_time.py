"""Pictures on the way: when they are drawn, what of, and that training does not notice."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import TINY, Compose
from tests.training.runs import assert_same_end, curves
from tests.training.test_run import train_and_kill
from vgglab.config.schema import TrainConfig, parse
from vgglab.dashboard.over_time import GradCamOverTime
from vgglab.dashboard.subjects import examples, is_due
from vgglab.data.images import TensorImages
from vgglab.data.transforms import Preprocessing
from vgglab.errors import InputError
from vgglab.networks import build_vgg
from vgglab.training.run import train

# What a picture could disturb: batch norm's statistics, dropout's masks, an average of the weights.
DELICATE = ("model=vgg11_bn", "model.dropout=0.5", "data.pad=2", "callbacks.ema.decay=0.9")
PICTURES = (
    "callbacks=[essential,pictures,ema]",
    "callbacks.first_filters.every_n_epochs=2",
    "callbacks.grad_cam.every_n_epochs=2",
    "callbacks.worst_mistakes.every_n_epochs=1",
)


def job(composed: Compose, *overrides: str, run_dir: Path) -> TrainConfig:
    return parse(composed("train", *TINY, *overrides, run_dir=run_dir), TrainConfig)


def data(channels: int = 3, size: int = 32, labels: str = "0123") -> Any:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(
        256, (len(labels), channels, size, size), generator=generator, dtype=torch.uint8
    )
    classes = [f"class {i}" for i in range(10)]
    half = (0.5,) * channels
    return SimpleNamespace(
        sets={"val": TensorImages(images, torch.tensor([int(i) for i in labels]), classes)},
        classes=classes,
        preprocessing=Preprocessing(half, half, (size, size)),
    )


def test_pictures_change_no_bit_of_a_run_and_survive_a_kill(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without, undisturbed, killed = (
        tmp_path / name for name in ("without", "undisturbed", "killed")
    )
    common = (*DELICATE, "trainer.max_epochs=3")
    train(job(composed, *common, "callbacks=[essential,ema]", run_dir=without))
    train(job(composed, *common, *PICTURES, run_dir=undisturbed))
    assert_same_end(without, undisturbed)
    train_and_kill(job(composed, *common, *PICTURES, run_dir=killed), 15, monkeypatch)
    train(job(composed, *common, *PICTURES, "resume=auto", run_dir=killed))
    assert_same_end(undisturbed, killed)

    assert curves(undisturbed) == curves(killed)
    images = {
        tag: points for tag, points in curves(killed).items() if isinstance(points[0][1], bytes)
    }
    assert {tag: [step for step, _ in points] for tag, points in images.items()} == {
        "images/augmented": [0],
        "network/receptive_field": [0],
        "network/filters": [0, 11, 17],  # the beginning, two epochs of six steps, the end
        "network/grad_cam": [0, 11, 17],
        "val/mistakes": [5, 11, 17],
        "test/mistakes": [18],
        "test/confusion": [18],
    }
    for tag in ("network/filters", "network/grad_cam"):
        assert len({picture for _, picture in images[tag]}) == 3


def test_a_run_without_a_test_and_tensorboard_draws_nothing(
    composed: Compose, tmp_path: Path
) -> None:
    bare = ("trainer.max_epochs=1", "test=false", "logger=csv", "callbacks=[essential,pictures]")
    train(job(composed, *bare, run_dir=tmp_path))
    names = {path.name for path in tmp_path.iterdir()}
    assert not names & {"tensorboard", "mistakes.json", "confusion.json"}


def test_other_networks_train_and_are_told_once_what_they_lack(
    composed: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = (
        "experiment=none",
        "~model",
        "+model._target_=torchvision.models.squeezenet1_1",
        "+model.num_classes=4",
        *(setting for setting in TINY if not setting.startswith(("model", "experiment"))),
        "callbacks=[essential,pictures]",
        "trainer.max_epochs=1",
    )
    with caplog.at_level(logging.WARNING, "vgglab"):
        train(parse(composed("train", *other), TrainConfig))
    (message,) = [record.message for record in caplog.records if "Grad-CAM" in record.message]
    assert message == "no Grad-CAM in TensorBoard: the layers of a SqueezeNet have no names"
    shown = curves(tmp_path / "run")
    assert {"network/filters", "network/receptive_field", "test/mistakes"} <= shown.keys()
    assert "network/grad_cam" not in shown


@pytest.mark.parametrize("layer", ["fc", "relu9_9"])
def test_a_layer_without_maps_is_bad_input(layer: str) -> None:
    network = build_vgg("vgg11", head="compact", width=1 / 16, num_classes=10)
    module: Any = SimpleNamespace(network=network)
    with pytest.raises(InputError, match=f"layer={layer} has no maps"):
        GradCamOverTime(layer=layer).setup(None, module, "fit")  # type: ignore[arg-type]


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
    for image, place in zip(images, chosen.values(), strict=True):
        assert torch.equal(image, given.sets["val"].image(place))


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
    ],
)
def test_what_is_due(state: dict[str, Any], due: bool) -> None:
    usual = {"current_epoch": 4, "max_epochs": 12, "max_steps": -1, "global_step": 50}
    trainer: Any = SimpleNamespace(**{**usual, "should_stop": False, **state})
    assert is_due(trainer, 10) == due
