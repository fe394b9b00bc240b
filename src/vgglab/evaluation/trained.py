"""A network rebuilt from a checkpoint alone, with its class names and its input."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from vgglab.config.schema import Network
from vgglab.data.transforms import Preprocessing
from vgglab.errors import InputError
from vgglab.networks import load_weights
from vgglab.networks.weights import read_checkpoint


@dataclass(frozen=True)
class Trained:
    """A trained network and what it needs to be used."""

    network: nn.Module
    classes: Sequence[str]
    preprocessing: Preprocessing
    config: dict[str, Any]
    """The run's configuration, in plain containers."""


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
    # What the network began with (`model.weights`) need not be there any more.
    section = {k: v for k, v in card["config"]["model"].items() if k != "weights"}
    model = Network.model_validate(section).checked("model", allowed_targets)
    preprocessing = Preprocessing.from_dict(card["preprocessing"])
    network: nn.Module = model.build_for(len(card["classes"]), preprocessing.channels)
    load_weights(network, str(path))
    return Trained(network.eval(), card["classes"], preprocessing, card["config"])
