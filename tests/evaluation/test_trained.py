"""From a checkpoint alone to its network, classes and data."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import VGG11_Weights

from tests.conftest import ROOT, TINY
from vgglab.config.schema import Network, TrainConfig, parse
from vgglab.errors import InputError
from vgglab.evaluation.trained import data_of, load_trained, subject
from vgglab.networks import build_vgg
from vgglab.training.run import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides=[f"run_dir={folder}", "name=test", *TINY])
    train(parse(config, TrainConfig))
    return folder


def test_a_checkpoint_rebuilds_its_network(run: Path) -> None:
    path = run / "checkpoints/best.ckpt"
    trained = load_trained(path)
    state = torch.load(path, weights_only=True)["state_dict"]
    for key, value in trained.network.state_dict().items():
        assert torch.equal(value, state[f"network.{key}"])
    assert not trained.network.training
    assert list(trained.classes) == [f"class {i}" for i in range(4)]
    assert trained.preprocessing.size == (32, 32)


def test_what_the_network_began_with_may_be_gone(run: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    section = checkpoint["vgglab"]["config"]["model"]
    section["weights"] = section["init_from"] = str(tmp_path / "gone.ckpt")
    torch.save(checkpoint, tmp_path / "later.ckpt")
    assert len(load_trained(tmp_path / "later.ckpt").classes) == 4


def test_a_checkpoint_of_another_program_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="not a checkpoint of"):
        load_trained(tmp_path / "other.ckpt")


@pytest.mark.parametrize("target", ["os.system", "torch.nn.Transformer", "vgglabber.Network"])
def test_a_strangers_checkpoint_names_no_other_networks(
    target: str, run: Path, tmp_path: Path
) -> None:
    """Some of torch.nn take forever to make: a Transformer of 300,000 layers."""
    checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    checkpoint["vgglab"]["config"]["model"] = {"_target_": target, "num_encoder_layers": 300_000}
    torch.save(checkpoint, tmp_path / "stranger.ckpt")
    with pytest.raises(InputError, match=rf"names {target} as its network; if you trust it"):
        load_trained(tmp_path / "stranger.ckpt")


def test_a_checkpoints_data_downloads_nothing(run: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    checkpoint["vgglab"]["config"]["data"] = {
        "_target_": "vgglab.data.CIFAR10",
        "root": str(tmp_path / "home"),
        "mirrors": ["http://127.0.0.1:9/evil"],
    }
    torch.save(checkpoint, tmp_path / "stranger.ckpt")
    data = data_of(load_trained(tmp_path / "stranger.ckpt")).checked("data").build("data")
    with pytest.raises(InputError, match="no mirrors given"):
        data.prepare_data()
    assert not (tmp_path / "home").exists()


def small(**arguments: object) -> Network:
    target = {"_target_": "vgglab.networks.build_vgg", "name": "vgg11", "width": 0.05}
    return Network.model_validate({**target, **arguments}).checked("model")


def save(state: Mapping[str, Tensor], path: Path) -> None:
    (save_file if path.suffix == ".safetensors" else torch.save)(dict(state), path)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_weights_say_how_many_classes_they_are_for(name: str, tmp_path: Path) -> None:
    network = build_vgg("vgg11", width=0.05, num_classes=7)
    save(network.state_dict(), tmp_path / name)
    found = subject(None, str(tmp_path / name), small(weights="gone.pth"))
    assert list(found.classes) == [f"class {label}" for label in range(7)]
    assert not found.network.training
    for key, value in found.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[key])


def test_a_thousand_classes_are_imagenets_and_so_is_the_input(tmp_path: Path) -> None:
    save(build_vgg("vgg11", width=0.05).state_dict(), tmp_path / "weights.pth")
    found = subject(None, str(tmp_path / "weights.pth"), small())
    published = VGG11_Weights.IMAGENET1K_V1
    assert list(found.classes) == published.meta["categories"]
    image = torch.randint(256, (3, 300, 411), dtype=torch.uint8)
    ours = found.preprocessing.normalize(found.preprocessing.fit(image)[None])
    theirs = published.transforms()(image)
    assert (ours[0] - theirs).abs().max() < 1.01 / 255 / 0.224  # a grey level, of rounding


def test_public_weights_are_torchvisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = VGG11_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    (tmp_path / "checkpoints").mkdir()
    network = build_vgg("vgg11", width=0.05)
    save(network.state_dict(), tmp_path / "checkpoints" / wanted)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    found = subject(None, "IMAGENET1K_V1", small())
    key = "features.0.weight"
    assert torch.equal(found.network.state_dict()[key], network.state_dict()[key])


def test_a_subject_is_a_checkpoint_or_weights_in_a_model(run: Path, tmp_path: Path) -> None:
    checkpoint = str(run / "checkpoints/best.ckpt")
    assert list(subject(checkpoint, None, None).classes) == [f"class {i}" for i in range(4)]
    save({"other.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    refused = [
        ((None, None, small()), "give checkpoint"),
        ((checkpoint, checkpoint, None), "give checkpoint"),
        ((checkpoint, None, small()), "checkpoint's own"),
        ((None, checkpoint, None), "also needs model"),
        ((None, str(tmp_path / "other.pth"), small()), r"no classifier\.6\.bias"),
        ((None, str(tmp_path / "gone.pth"), small()), "no weights at"),
    ]
    for (file, weights, model), message in refused:
        with pytest.raises(InputError, match=message):
            subject(file, weights, model)
