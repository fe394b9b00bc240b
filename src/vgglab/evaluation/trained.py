"""A network ready for use, with its class names and its input: from a checkpoint, or from public
weights."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AliasPath, BaseModel, Field, ValidationError, field_validator
from safetensors import SafetensorError, safe_open
from torch import nn

from vgglab.config.errors import explain_validation
from vgglab.config.schema import Data, Network
from vgglab.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from vgglab.errors import InputError
from vgglab.networks import load_weights, read_state_dict
from vgglab.networks.weights import PUBLIC, check_file, misfits, open_checkpoint

CARD = "vgglab"  # what checkpoints call it, and the metadata of safetensors files
IMAGENET_CLASSES = 1000
_LARGEST_SIDE = 1 << 14  # pixels
# Of networks that a file may name; of others some take forever to make.
_HOMES = ("vgglab", "torchvision.models")
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


class Card(BaseModel):
    """What a checkpoint says of itself; it may be a stranger's."""

    config: dict[str, Any]
    model: Network = Field(validation_alias=AliasPath("config", "model"))
    data: Data = Field(validation_alias=AliasPath("config", "data"))
    classes: Annotated[list[str], Field(min_length=1)]
    preprocessing: Preprocessing

    @property
    def shape(self) -> tuple[int, int]:
        """How many classes and channels the network is for."""
        return len(self.classes), self.preprocessing.channels

    @field_validator("preprocessing")
    @classmethod
    def _usable(cls, preprocessing: Preprocessing) -> Preprocessing:
        sides = (*preprocessing.size, preprocessing.resize or 1, *(preprocessing.train_scale or ()))
        if not all(1 <= side <= _LARGEST_SIDE for side in sides):
            raise ValueError(f"sides are 1 to {_LARGEST_SIDE} pixels, not {sides}")
        if not preprocessing.mean or len(preprocessing.mean) != len(preprocessing.std):
            raise ValueError("mean and std have one number a channel")
        if not all(map(math.isfinite, preprocessing.mean)) or not min(preprocessing.std) > 0:
            raise ValueError("mean must be finite, and std above 0")
        return preprocessing


def read_card(path: Path) -> Card:
    """What a checkpoint, or a file that scripts/export_weights.py made of one, says of itself.

    Its tensors are not read: whoever loads them finds damage.

    Raises:
        InputError: the file is missing, torn, of another program, or its card is not one.
    """
    if path.suffix == ".safetensors":
        plain = _card_in_metadata(path)
        advice = "scripts/export_weights.py writes files that say what they are"
    else:
        content = open_checkpoint(path)
        plain = content.get(CARD) if isinstance(content, dict) else None
        advice = "it is not a checkpoint of scripts/train.py"
    if plain is None:
        raise InputError(
            f"{path} does not say what network it is for: {advice}; give other files as "
            f"weights={path} with model=..."
        )
    try:
        return Card.model_validate(plain)
    except ValidationError as error:
        raise InputError(f"{path}: {explain_validation(error, Card)}") from error


def _card_in_metadata(path: Path) -> object:
    check_file(path)
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(CARD)
        return None if text is None else json.loads(text)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def load_trained(path: Path, allowed_targets: Sequence[str] = ()) -> Trained:
    """Read a checkpoint that scripts/train.py wrote, or what scripts/export_weights.py made of it.

    Raises:
        InputError: the file is missing, torn, of another program, or names a network that may not
            be built.
    """
    card = read_card(path)
    network = checked_model(path, card, allowed_targets).build_for(*card.shape)
    load_weights(network, str(path))
    return Trained(network.eval(), card.classes, card.preprocessing, card.config)


def data_of(trained: Trained) -> Data:
    """The data of the run, as it lies on this disk: a stranger's file makes nobody download."""
    section = Data.model_validate(trained.config["data"])
    return section.with_arguments(mirrors=[]) if "mirrors" in section.arguments else section


def checked_model(path: Path, card: Card, allowed_targets: Sequence[str]) -> Network:
    """The network that a file names: one that may be built, and is as large as the file's weights.

    Raises:
        InputError: it is not.
    """
    section = _without_beginnings(card.model.model_dump(by_alias=True))
    target = card.model.target
    if not any(f"{target}.".startswith(f"{home}.") for home in (*_HOMES, *allowed_targets)):
        raise InputError(
            f"{path} names {target} as its network; if you trust it, add allowed_targets=[{target}]"
        )
    try:
        model = Network.model_validate(section).checked("model", allowed_targets)
        with torch.device("meta"):  # a stranger's sizes may be more than memory holds
            wanted = model.build_for(*card.shape).state_dict()
    except (InputError, RuntimeError, OverflowError) as error:
        raise InputError(f"{path} names a network that cannot be built: {error}") from error
    if misshapen := misfits(read_state_dict(path, whole=False), wanted):
        raise InputError(f"{path}: its weights are not of the network that it names: {misshapen}")
    return model


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
