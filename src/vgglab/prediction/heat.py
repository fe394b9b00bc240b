"""Grad-CAM of the predicted classes, where the network is one whose layers have names."""

import torch
from torch import Tensor, nn

from vgglab.data.transforms import Preprocessing
from vgglab.inspection.attribution import grad_cam
from vgglab.networks import VGG, extract, layer_names

_POSITIONS = 4  # a side: coarser maps hardly say where
# Images. For the gradients a VGG-16 keeps 13.6 million activations of each 224 x 224 pixels, 54 MB,
# and those before batch normalisation, too.
_AT_A_TIME = 8


def heat_layer(network: nn.Module, preprocessing: Preprocessing) -> str | None:
    """The layer to look at: the last ReLU whose maps have at least 4 x 4 positions.

    Of 224 pixels that is `relu5_3`, as in Grad-CAM's paper; of 32 pixels `relu4_3`.

    Args:
        network: in evaluation mode.
        preprocessing: what its input is.

    Returns:
        None where there is no such layer, or the network is no VGG.
    """
    if not isinstance(network, VGG):
        return None
    relus = [name for name in layer_names(network) if name.startswith("relu") and "_" in name]
    with torch.inference_mode():
        weights = next(network.parameters())
        image = weights.new_zeros(1, preprocessing.channels, *preprocessing.size)
        maps = extract(network, image, relus)
    fine = [name for name in relus if min(maps[name].shape[-2:]) >= _POSITIONS]
    return fine[-1] if fine else None


def heats(network: VGG, images: Tensor, layer: str, targets: Tensor) -> Tensor:
    """`grad_cam` of many images, a few at a time, on the CPU."""
    parts = zip(torch.split(images, _AT_A_TIME), torch.split(targets, _AT_A_TIME), strict=True)
    return torch.cat([grad_cam(network, part, layer, labels).cpu() for part, labels in parts])
