"""What a layer answers to an image, and which parts of the image speak for a class."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vgglab.networks import VGG, DenseVGG, extract, layer_names


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


def _maps(network: VGG | DenseVGG, layer: str, found: dict[str, Tensor]) -> Tensor:
    if found[layer].ndim != 4:
        raise ValueError(f"{layer} of {network.name} is a vector: it has no maps")
    return found[layer]


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Without dropout, and with batch normalisation's own statistics.

    A frozen part that was in evaluation mode already stays there afterwards.
    """
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
