"""A network ready for use, with its class names and its input: from a checkpoint, or from public
weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vgglab.config.schema import Network
from vgglab.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from vgglab.errors import InputError
from vgglab.networks import load_weights, read_state_dict
from vgglab.networks.weights import PUBLIC, read_checkpoint

IMAGENET_CLASSES = 1000
# The evaluation of torchvision's public weights.
IMAGENET_INPUT = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, (224, 224), resize=256)


@dataclass(frozen=True)
class Trained:
    """A trained network and what it needs to be used."""

    network: nn.Module
    classes: Sequence[str]
    preprocessing: Preprocessing
    config: dict[str, Any]
    """The run's configuration, in plain containers. Empty where there was no run of ours."""


def load_trained(path: Path, allowed_targets: Sequence[str] = ()) -> Trained:
    """Read a checkpoint that scripts/train.py wrote.

    Raises:
        InputError: the file is missing, torn, of another program, or names a network that may not
            be built.
    """
    card = read_checkpoint(path).get("vgglab")
    if not isinstance(card, dict):
        raise InputError(
            f"{path} is not a checkpoint of scripts/train.py; for other files: weights="
        )
    section = _without_beginnings(card["config"]["model"])
    model = Network.model_validate(section).checked("model", allowed_targets)
    preprocessing = Preprocessing.from_dict(card["preprocessing"])
    network: nn.Module = model.build_for(len(card["classes"]), preprocessing.channels)
    load_weights(network, str(path))
    return Trained(network.eval(), card["classes"], preprocessing, card["config"])


def subject(
    checkpoint: str | None,
    weights: str | None,
    model: Network | None,
    allowed_targets: Sequence[str] = (),
) -> Trained:
    """What a script looks at: a checkpoint, or weights of any origin in a model.

    Of weights the number of classes is the last layer's in the file, the names are ImageNet's
    where there are 1000 of them, and the input is that of torchvision's ImageNet networks.

    Args:
        checkpoint: a file of scripts/train.py. Give this alone, or the other two.
        weights: as `vgglab.networks.load_weights` takes them.
        model: what the weights are for.
        allowed_targets: see `vgglab.config.components`.

    Raises:
        InputError: neither or both were given, or the files cannot be used.
    """
    if (checkpoint is None) == (weights is None):
        raise InputError("give checkpoint=PATH, or weights=... with model=...")
    if checkpoint is not None:
        if model is not None:
            raise InputError("model= is the checkpoint's own; give it with weights= alone")
        return load_trained(Path(checkpoint), allowed_targets)
    assert weights is not None
    if model is None:
        raise InputError("weights=... also needs model=...")
    section = model.model_dump(by_alias=True)
    model = Network.model_validate(_without_beginnings(section))
    classes = _class_names(_classes_of(model, weights))
    network: nn.Module = model.build_for(len(classes), IMAGENET_INPUT.channels)
    load_weights(network, weights)
    return Trained(network.eval(), classes, IMAGENET_INPUT, {})


def _without_beginnings(section: dict[str, Any]) -> dict[str, Any]:
    """A model section without the files that the network began with: they may be gone."""
    return {name: value for name, value in section.items() if name not in ("weights", "init_from")}


def _classes_of(model: Network, weights: str) -> int:
    """The rows of the last layer in the file."""
    if weights == PUBLIC:
        return IMAGENET_CLASSES
    with torch.device("meta"):
        built = model.arguments.get("num_classes", IMAGENET_CLASSES)
        keys = list(model.build_for(built, IMAGENET_INPUT.channels).state_dict())
    last = read_state_dict(Path(weights).expanduser()).get(keys[-1])
    if last is None:
        raise InputError(f"weights={weights} do not fit this model: no {keys[-1]} in the file")
    return len(last)


def _class_names(count: int) -> Sequence[str]:
    if count != IMAGENET_CLASSES:
        return [f"class {label}" for label in range(count)]
    from torchvision.models import VGG16_Weights  # a second of imports that few runs need

    names: Sequence[str] = VGG16_Weights.IMAGENET1K_V1.meta["categories"]
    return names
