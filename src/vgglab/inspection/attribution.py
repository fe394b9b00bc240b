"""What a layer answers to an image, and which parts of the image speak for a class."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from captum.attr import LayerGradCam
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
    with _evaluation_mode(network), torch.no_grad():
        maps = extract(network, images, [layer])[layer]
    if maps.ndim != 4:
        raise ValueError(f"{layer} of {network.name} is a vector: it has no maps")
    return maps


def grad_cam(network: VGG, images: Tensor, layer: str, targets: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391, equations 1 and 2), by captum.

    Each map of the layer is weighted by the mean, over positions, of the gradient of the target's
    logit with respect to it; of the sum over maps what is positive stays. Runs in evaluation mode,
    also within `torch.no_grad` or `torch.inference_mode`, and leaves the network and its gradients
    as they were.

    Args:
        network: a VGG.
        images: (N, in_channels, H, W), as the network takes them.
        layer: of maps, by its name in `layer_names(network)`. The paper takes the last before the
            last pool, `relu5_3`.
        targets: (N,) int64, the class to explain for each image.

    Returns:
        (N, h, w), at least 0, at the layer's resolution. `captum.attr.LayerAttribution.interpolate`
        enlarges it.

    Raises:
        ValueError: as `feature_maps`.
    """
    feature_maps(network, images[:1], layer)
    # captum hands a copy of the layer's output on, so the ReLUs in place do not change what it saw.
    explainer = LayerGradCam(network, network.get_submodule(layer_names(network)[layer]))
    with torch.inference_mode(False), torch.enable_grad(), _evaluation_mode(network):
        # Tensors made in inference mode cannot be saved for backward; their copies can.
        cam = explainer.attribute(images.clone(), targets.clone(), relu_attributions=True)
    assert isinstance(cam, Tensor)
    return cam.detach().squeeze(1)


@contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    """A frozen part that was in evaluation mode already stays there afterwards."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
