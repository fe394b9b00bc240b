"""What a layer answers to an image, and which parts of the image speak for a class."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vgglab.networks.dense import DenseVGG
from vgglab.networks.layers import evaluation_mode, extract, layer_names
from vgglab.networks.vgg import VGG

_POSITIONS = 4  # a side: coarser maps hardly say where
# Images. For the gradients a VGG-16 keeps 13.6 million activations of each 224 x 224 pixels, 54 MB,
# and those before batch normalisation, too.
_AT_A_TIME = 8


def feature_maps(network: VGG | DenseVGG, images: Tensor, layer: str) -> Tensor:
    """A layer's maps in evaluation mode, without gradients; the network stays in its own mode.

    Args:
        network: a VGG or its dense form.
        images: (N, in_channels, H, W), as the network takes them.
        layer: a name of `layer_names(network)`.

    Returns:
        (N, C, h, w).

    Raises:
        ValueError: there is no such layer, or it has no positions, as `fc6`.
    """
    with evaluation_mode(network), torch.no_grad():
        return _maps(network, layer, extract(network, images, [layer]))


def grad_cam(network: VGG, images: Tensor, layer: str, targets: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391, equations 1 and 2).

    Each map of the layer is weighted by the mean, over positions, of the gradient of the target's
    logit with respect to it; of the sum over maps what is positive stays. Runs in evaluation mode,
    also within `torch.no_grad` or `torch.inference_mode`, and leaves the network and its gradients
    as they were. No hook is set and the network itself not called, only its layers: the whole of it
    may be compiled, for other sizes of batches.

    Args:
        network: a VGG.
        images: (N, in_channels, H, W), as the network takes them.
        layer: of maps, by its name in `layer_names(network)`. The paper takes the last before the
            last pool, `relu5_3`.
        targets: (N,) int64, the class to explain for each image.

    Returns:
        (N, h, w), at least 0, at the layer's resolution.

    Raises:
        ValueError: as `feature_maps`.
    """
    last = list(layer_names(network))[-1]
    with torch.inference_mode(False), torch.enable_grad(), evaluation_mode(network):
        # Tensors made in inference mode cannot be saved for backward; their copies can. A frozen
        # network has no other tensor that asks for gradients.
        given = images.clone().requires_grad_()
        found = extract(network, given, [layer, last])
        maps = _maps(network, layer, found)
        chosen = found[last].gather(1, targets.clone()[:, None])
        (gradient,) = torch.autograd.grad(chosen.sum(), maps)
    weights = gradient.mean((2, 3), keepdim=True)
    return (weights * maps.detach()).sum(1).relu()


def heats(network: VGG, images: Tensor, layer: str, targets: Tensor) -> Tensor:
    """`grad_cam` of many images, a few at a time, on the CPU."""
    parts = zip(torch.split(images, _AT_A_TIME), torch.split(targets, _AT_A_TIME), strict=True)
    return torch.cat([grad_cam(network, part, layer, labels).cpu() for part, labels in parts])


def heat_layer(network: nn.Module, shape: Sequence[int]) -> str | None:
    """The layer whose Grad-CAM to look at: the last ReLU whose maps have at least 4 x 4 positions.

    Of 224 pixels that is `relu5_3`, as in Grad-CAM's paper; of 32 pixels `relu4_3`.

    Args:
        network: in evaluation mode.
        shape: an image's: in_channels, H, W.

    Returns:
        None where there is no such layer, or the network is no VGG.
    """
    if not isinstance(network, VGG):
        return None
    relus = [name for name in layer_names(network) if name.startswith("relu") and "_" in name]
    with torch.inference_mode():
        maps = extract(network, next(network.parameters()).new_zeros(1, *shape), relus)
    fine = [name for name in relus if min(maps[name].shape[-2:]) >= _POSITIONS]
    return fine[-1] if fine else None


def _maps(network: VGG | DenseVGG, layer: str, found: dict[str, Tensor]) -> Tensor:
    if found[layer].ndim != 4:
        raise ValueError(f"{layer} of {network.name} is a vector: it has no maps")
    return found[layer]
