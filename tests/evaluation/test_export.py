"""Weights out to other programs, and back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from safetensors import safe_open

from tests.conftest import TINY, Compose
from vgglab.config.jobs import EvaluateConfig, ExportWeightsConfig
from vgglab.config.schema import TrainConfig, parse
from vgglab.errors import InputError
from vgglab.evaluation.evaluate import evaluate
from vgglab.evaluation.export import export_weights
from vgglab.evaluation.trained import load_trained
from vgglab.networks import build_vgg
from vgglab.training.run import train

Card = dict[str, Any]


def export(composed: Compose, checkpoint: Path, output: Path) -> Path:
    overrides = (f"checkpoint={checkpoint}", f"output={output}")
    export_weights(parse(composed("export_weights", *overrides), ExportWeightsConfig))
    return output


def measured(composed: Compose, checkpoint: Path) -> dict[str, float]:
    run_dir = checkpoint.parent / f"evaluation of {checkpoint.name}"
    config = composed("evaluate", "device=cpu", run_dir=run_dir)
    config.checkpoint = str(checkpoint)
    return evaluate(parse(config, EvaluateConfig))


@pytest.fixture
def checkpoint(composed: Compose, tmp_path: Path) -> Path:
    """Of a run with a moving average, whose raw weights are not what is tested."""
    average = ("callbacks=[default,ema]", "callbacks.ema.decay=0.9", "trainer.max_epochs=1")
    config = composed("train", *TINY, "test=false", *average, run_dir=tmp_path / "run")
    train(parse(config, TrainConfig))
    return tmp_path / "run/checkpoints/best.ckpt"


def untrained(path: Path, change: Callable[[Card], None] = lambda card: None) -> Path:
    """A checkpoint as scripts/train.py writes it, with a card that may be changed."""
    arguments = {"name": "vgg11", "width": 0.05, "head": "compact"}
    network = build_vgg(num_classes=2, **arguments)  # type: ignore[arg-type]
    card: Card = {
        "config": {
            "model": {"_target_": "vgglab.networks.build_vgg", **arguments},
            "data": {"_target_": "vgglab.data.Synthetic"},
        },
        "classes": ["cat", "dog"],
        "preprocessing": {"mean": [0.5] * 3, "std": [0.2] * 3, "size": [32, 32]},
    }
    change(card)
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, "vgglab": card}, path)
    return path


def test_an_export_is_tested_as_its_checkpoint(
    checkpoint: Path, composed: Compose, tmp_path: Path
) -> None:
    output = export(composed, checkpoint, tmp_path / "model.safetensors")
    assert measured(composed, output) == measured(composed, checkpoint)
    there, back = load_trained(checkpoint), load_trained(output)
    assert (back.classes, back.preprocessing) == (there.classes, there.preprocessing)
    assert back.config == there.config
    again = export(composed, output, tmp_path / "again.safetensors")
    assert safetensors.torch.load_file(again).keys() == there.network.state_dict().keys()


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
def test_the_file_holds_what_was_tested_by_the_networks_own_keys(
    name: str, checkpoint: Path, composed: Compose, tmp_path: Path
) -> None:
    output = export(composed, checkpoint, tmp_path / name)
    if name == "model.pth":
        state = torch.load(output, weights_only=True)
    else:
        state = safetensors.torch.load_file(output)
    content = torch.load(checkpoint, weights_only=True)
    assert {f"network.{key}" for key in state} == content["state_dict"].keys()
    for key, value in state.items():
        assert torch.equal(value, content["state_dict"][f"network.{key}"])
        assert value.is_contiguous()
    raw = content["current_model_state"]["network.features.0.weight"]
    assert not torch.equal(state["features.0.weight"], raw)


def with_metadata(state: dict[str, torch.Tensor], card: Card, path: Path) -> Path:
    safetensors.torch.save_file(state, path, metadata={"vgglab": json.dumps(card)})
    return path


def test_torchvision_loads_an_export(composed: Compose, tmp_path: Path) -> None:
    # A byte a weight, and networks without memory: there are 129 million weights.
    with torch.device("meta"):
        ours, theirs = build_vgg("vgg11", num_classes=3), torchvision.models.vgg11(num_classes=3)
    small = {"dtype": torch.float8_e4m3fn, "device": "cpu"}
    state = {key: torch.zeros_like(value, **small) for key, value in ours.state_dict().items()}
    card = torch.load(untrained(tmp_path / "a.ckpt"), weights_only=True)["vgglab"]
    card["config"]["model"] |= {"width": 1.0, "head": "imagenet"}
    card["classes"] = ["cat", "dog", "cow"]
    output = tmp_path / "model.safetensors"
    export(composed, with_metadata(state, card, tmp_path / "full.safetensors"), output)
    theirs.load_state_dict(safetensors.torch.load_file(output), assign=True)


def test_a_file_without_a_card_is_refused_with_what_to_give_instead(tmp_path: Path) -> None:
    state = build_vgg("vgg11", width=0.05, head="compact").state_dict()
    path = tmp_path / "stranger.safetensors"
    safetensors.torch.save_file(state, path)
    with pytest.raises(InputError, match=r"weights=.*stranger\.safetensors with model="):
        load_trained(path)


def test_a_damaged_export_is_refused(composed: Compose, tmp_path: Path) -> None:
    checkpoint = untrained(tmp_path / "a.ckpt")
    whole = export(composed, checkpoint, tmp_path / "model.safetensors").read_bytes()
    for damaged in (b"", whole[:9], whole[:-1], whole[:-9] + b"\xff" + whole[-8:]):
        (tmp_path / "model.safetensors").write_bytes(damaged)
        with pytest.raises(InputError, match=r"model\.safetensors"):
            load_trained(tmp_path / "model.safetensors")


HOSTILE: dict[str, tuple[Callable[[Card], Any], str]] = {
    "program": (lambda card: card["config"]["model"].update(_target_="os.system"), "os.system"),
    "loader": (lambda card: card["config"]["model"].update(_target_="torch.hub.load"), "hub.load"),
    "no network": (lambda card: card["config"].pop("model"), "config.model"),
    "no class": (lambda card: card["classes"].clear(), "classes"),
    "classes": (lambda card: card.update(classes={"a": 1}), "classes"),
    "configuration": (lambda card: card.update(config=["model"]), "config"),
    "model": (lambda card: card["config"].update(model="vgg16"), "config.model"),
    "target": (lambda card: card["config"]["model"].update(_target_=7), "_target_"),
    "data": (lambda card: card["config"].update(data=[]), "config.data"),
    "larger than memory": (lambda card: card["config"]["model"].update(width=1e5), "not of the"),
    "beyond numbers": (lambda card: card["config"]["model"].update(width=1e300), "cannot be built"),
    "infinite": (
        lambda card: card["config"]["model"].update(width=float("inf")),
        "cannot be built",
    ),
    "other classes": (lambda card: card["classes"].append("cow"), "not of the network"),
    "channels": (lambda card: card["preprocessing"].update(mean=[0.5] * 2), "one number a channel"),
    "no size": (lambda card: card["preprocessing"].pop("size"), "preprocessing.size"),
    "giant": (lambda card: card["preprocessing"].update(size=[10**9, 10**9]), "pixels"),
    "text": (lambda card: card["preprocessing"].update(resize="big"), "preprocessing.resize"),
}


@pytest.mark.parametrize("form", ["ckpt", "safetensors"])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_card_is_refused(case: str, form: str, composed: Compose, tmp_path: Path) -> None:
    change, message = HOSTILE[case]
    path = untrained(tmp_path / "a.ckpt", change)
    if form == "safetensors":
        content = torch.load(path, weights_only=True)
        state = {key.removeprefix("network."): v for key, v in content["state_dict"].items()}
        path = with_metadata(state, content["vgglab"], tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=rf"a\.{form}.*{message}"):
        load_trained(path)


@pytest.mark.parametrize("text", ["", "{", "[" * 10**5, "null", "7", '"x"', "\\u0000"])
def test_metadata_that_is_no_card_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(1)}, path, metadata={"vgglab": text})
    with pytest.raises(InputError, match=r"a\.safetensors"):
        load_trained(path)


def test_outputs_that_cannot_be_written_are_refused(composed: Compose, tmp_path: Path) -> None:
    checkpoint = untrained(tmp_path / "a.ckpt")
    for name in ("model.onnx", "nowhere/model.pth", "nowhere/model.safetensors"):
        with pytest.raises(InputError, match=f"output=.*{name}"):
            export(composed, checkpoint, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_an_export_says_which_framework_it_is_for(composed: Compose, tmp_path: Path) -> None:
    output = export(composed, untrained(tmp_path / "a.ckpt"), tmp_path / "model.safetensors")
    with safe_open(output, "pt") as file:
        assert file.metadata()["format"] == "pt"
