"""Deeper columns begin with layers of a trained column A (section 3.1)."""

from pathlib import Path

import torch
from torch import Tensor

from vgglab.networks.layers import layer_names
from vgglab.networks.vgg import VGG
from vgglab.networks.weights import WeightsError, misfits, read_state_dict, weights_file

# The first four convolutions and the dense layers (section 3.1), by their roles: A's fourth
# convolution is the second of stage 3, where the deeper columns have it too.
_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8", "fc")


def initialise_from(network: VGG, source: str | Path) -> list[str]:
    """Take the first four convolutions and the dense layers from a trained column A, in place.

    Layers are matched by their role, never by their index. A batch norm goes with its convolution.
    The last layer is left alone where the source was trained for other classes.

    Args:
        network: any column of Table 1, with the source's head, width and batch norm.
        source: a file as `read_state_dict` takes it, of column A or A-LRN; or `IMAGENET1K_V1`,
            torchvision's trained A.

    Returns:
        The names of the layers taken; they are also kept as `network.inherited`.

    Raises:
        WeightsError: the file cannot be read or is no column A of this head, width and batch norm;
            nothing is changed.
    """
    donor = _column_a_like(network)
    given = read_state_dict(weights_file(donor, source))
    names = layer_names(donor)
    classifier = next(reversed(names))
    path = names[classifier]
    same_classes = f"{path}.bias" in given and given[f"{path}.bias"].shape == (network.num_classes,)
    wanted = donor.state_dict()
    if not same_classes:
        for key in (f"{path}.weight", f"{path}.bias"):
            given.pop(key, None)
            wanted.pop(key, None)
    if problems := misfits(given, wanted):
        raise WeightsError(
            f"model.init_from={source} is no column A with head={network.head}, "
            f"width={network.width:g} and batch_norm={network.batch_norm}: {problems}"
        )
    taken = [
        name
        for name in _with_batch_norm(_LAYERS)
        if name in names and (name != classifier or same_classes)
    ]
    own, shapes = layer_names(network), network.state_dict()
    tensors: dict[str, Tensor] = {}
    for name in taken:
        for key, value in given.items():
            if key.startswith(f"{names[name]}."):
                target = f"{own.get(name)}{key.removeprefix(names[name])}"
                if target not in shapes or shapes[target].shape != value.shape:
                    raise WeightsError(f"model.init_from: {network.name} has no {name} as column A")
                tensors[target] = value
    network.load_state_dict(tensors, strict=False)
    network.inherited = taken
    return taken


def _column_a_like(network: VGG) -> VGG:
    """Column A with the network's other settings and no values."""
    with torch.device("meta"):
        return VGG(
            "vgg11",
            num_classes=network.num_classes,
            batch_norm=network.batch_norm,
            head=network.head,
            dropout=network.dropout,
            in_channels=network.in_channels,
            width=network.width,
            max_pools=network.max_pools,
            init=network.init,
        )


def _with_batch_norm(layers: tuple[str, ...]) -> list[str]:
    return [
        name
        for layer in layers
        for name in (layer, layer.replace("conv", "bn"))[: 1 + layer.startswith("conv")]
    ]
