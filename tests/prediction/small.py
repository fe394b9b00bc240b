"""A small network that was not trained, and its checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from vgglab.data.transforms import Preprocessing
from vgglab.evaluation.trained import CARD, Trained
from vgglab.networks import build_vgg

CLASSES = ["ant", "bee", "cat", "dog", "elk", "fox"]
SMALL: dict[str, Any] = {"name": "vgg11", "width": 1 / 16, "head": "compact"}
MODEL = {"_target_": "vgglab.networks.build_vgg", **SMALL}


class Ran(NamedTuple):
    """What a prediction printed."""

    out: str
    err: str


Run = Callable[..., Ran]
"""Predict all photographs, with other settings than the default where given."""


def small_network() -> Trained:
    """For 32 x 32 pixels, the middle of 40."""
    torch.manual_seed(0)
    network = build_vgg(**SMALL, num_classes=len(CLASSES))
    last = network.classifier[-1]
    assert isinstance(last, nn.Linear)
    nn.init.normal_(last.weight, std=2.0)  # else all its probabilities would be 1/6
    preprocessing = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), (32, 32), resize=40)
    return Trained(network.eval(), CLASSES, preprocessing, {})


def save_checkpoint(path: Path, trained: Trained, model: dict[str, Any]) -> None:
    """As scripts/train.py would."""
    card = {
        "config": {"model": model, "data": {"_target_": "vgglab.data.Synthetic"}},
        "classes": list(trained.classes),
        "preprocessing": trained.preprocessing.to_dict(),
    }
    state = {f"network.{key}": value for key, value in trained.network.state_dict().items()}
    torch.save({CARD: card, "state_dict": state}, path)
