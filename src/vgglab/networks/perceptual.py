"""Perceptual and style losses: images compared by what a VGG's layers answer to them."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vgglab.networks.build import build_vgg
from vgglab.networks.dense import DenseVGG
from vgglab.networks.layers import extract, layer_names
from vgglab.networks.vgg import VGG
from vgglab.networks.weights import PUBLIC


@dataclass(frozen=True)
class Targets:
    """What images are compared with, in float32; made once for many comparisons."""

    content: dict[str, Tensor]
    """Features (N, C, h, w) by layer."""
    style: dict[str, Tensor]
    """Gram matrices (N, C, C) by layer."""


class PerceptualLoss(nn.Module):
    """The feature and style reconstruction losses of Johnson et al. 2016 (arXiv 1603.08155).

    With F(x) a layer's features of shape (C, h, w), x the image, t and s the targets:

    - content (their equation 2): mean over channels and positions of (F(x) - F(t))^2;
    - style (their equation 4): ||G(x) - G(s)||^2, squared Frobenius norm of the Gram matrices
      G = F F^T / (C h w) with F as (C, h w), which do not grow with the image, so the style's may
      have another size. Gatys et al. 2015 (arXiv 1508.06576) leave the division out of G and divide
      the norm by 4 C^2 (h w)^2: for images of one size, a quarter of this.

    The loss is the weighted sum over the layers, averaged over the batch. The network is the
    loss's own, frozen and in evaluation mode whatever the module around it does; gradients reach
    the images alone. It runs only as deep as the deepest layer. Under autocast, and for half
    precision images or weights, only the convolutions are in half precision: means and Gram
    matrices are float32.

    Args:
        layers: weight of the content loss of each layer, by the paper's name (`relu3_3`; see
            `layer_names`). Of a convolution it is the output before its ReLU.
        style_layers: likewise of the style loss.
        network: the VGG that looks, copied; None for the paper's column D, `vgg16`.
        weights: of column D where `network` is None, as `load_weights` takes them.
        mean: the network's input normalisation, one number a channel, for images of 0 to 1.
        std: likewise. Both are torchvision's for ImageNet unless given.

    Raises:
        ValueError: no layer, one that the network does not have, a dense layer as style, or
            another number of channels in `mean` and `std` than the network's.
        WeightsError: the weights cannot be had or read.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        layers: Mapping[str, float],
        style_layers: Mapping[str, float] | None = None,
        *,
        network: VGG | DenseVGG | None = None,
        weights: str = PUBLIC,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        self.layers = dict(layers)
        self.style_layers = dict(style_layers or {})
        if not (self.layers or self.style_layers):
            raise ValueError("give at least one layer in layers or style_layers")
        network = build_vgg("vgg16", weights=weights) if network is None else network
        self.network = _frozen_copy(network, [*self.layers, *self.style_layers])
        weight = next(self.network.parameters())
        if not len(mean) == len(std) == weight.shape[1]:
            raise ValueError(f"{mean=} and {std=} need {weight.shape[1]} numbers, one a channel")
        self._check_layers(network.smallest_image)
        for name, values in (("mean", mean), ("std", std)):
            per_channel = torch.tensor(values, device=weight.device).view(-1, 1, 1)
            self.register_buffer(name, per_channel, persistent=False)

    def train(self, mode: bool = True) -> "PerceptualLoss":
        """Stay in evaluation mode, whatever the module around it does."""
        return super().train(False)

    def forward(self, images: Tensor, target: Tensor, style: Tensor | None = None) -> Tensor:
        """The loss, a float32 scalar.

        Args:
            images: (N, C, H, W) floats of 0 to 1.
            target: the images whose content to meet, of the same shape, or (1, C, H, W) for all.
            style: the images whose style to meet, (N or 1, C, any height, any width); None: target.

        Raises:
            ValueError: shapes that do not fit, or images that are not floats.
        """
        content, style_loss = self.terms(images, self.targets(target, style))
        return content + style_loss

    @torch.no_grad()
    def targets(self, target: Tensor, style: Tensor | None = None) -> Targets:
        """What `terms` compares with, for a target that many images are compared with."""
        shown = [*self.layers] if style is not None else [*self.layers, *self.style_layers]
        features = self._features(target, shown)
        patterns = features if style is None else self._features(style, [*self.style_layers])
        return Targets(
            {name: _at_least_float32(features[name]) for name in self.layers},
            {name: gram_matrix(patterns[name]) for name in self.style_layers},
        )

    def terms(self, images: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """The weighted content loss and the weighted style loss, two float32 scalars."""
        features = self._features(images, [*self.layers, *self.style_layers])
        content = style = torch.zeros((), device=images.device)
        for name, weight in self.layers.items():
            distance = _squares(_at_least_float32(features[name]), targets.content[name])
            content = content + weight * distance.mean()
        for name, weight in self.style_layers.items():
            distance = _squares(gram_matrix(features[name]), targets.style[name])
            style = style + weight * distance.sum((1, 2)).mean()
        return content, style

    def _features(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        if not (images.is_floating_point() and images.ndim == 4):
            raise ValueError(
                f"images must be (N, C, H, W) floats of 0 to 1, not {images.dtype} of shape "
                f"{tuple(images.shape)}"
            )
        if images.shape[1] != len(self.mean):
            raise ValueError(f"images have {images.shape[1]} channels, not {len(self.mean)}")
        # Half precision would round the pixels before the mean is taken out.
        normalized = (_at_least_float32(images) - self.mean) / self.std
        return extract(self.network, normalized.to(next(self.network.parameters()).dtype), layers)

    def _check_layers(self, side: int) -> None:
        """Let the smallest image through: names and shapes fail here and not in training."""
        weight = next(self.network.parameters())
        image = weight.new_zeros(1, weight.shape[1], side, side)
        features = extract(self.network, image, [*self.layers, *self.style_layers])
        for name in self.style_layers:
            if features[name].ndim != 4:
                raise ValueError(
                    f"style_layers: {name} has no positions to take a Gram matrix over"
                )


def gram_matrix(features: Tensor) -> Tensor:
    """The channels' inner products over all positions, divided by C h w (Johnson et al. 2016).

    Args:
        features: (N, C, h, w).

    Returns:
        (N, C, C), float32 also for half precision features and under autocast.
    """
    flat = _at_least_float32(features).flatten(2)
    with torch.autocast(flat.device.type, enabled=False):
        return flat @ flat.transpose(1, 2) / flat[0].numel()


def _frozen_copy(network: VGG | DenseVGG, layers: Sequence[str]) -> VGG | DenseVGG:
    """A copy without the dense layers, nine tenths of a VGG-16, where none of them is asked for."""
    paths = layer_names(network)
    unused: dict[int, nn.Module] = {}
    if not any(paths.get(layer, "").startswith("classifier.") for layer in layers):
        unused = {id(module): nn.Identity() for module in network.classifier}
    return copy.deepcopy(network, unused).requires_grad_(False).eval()


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _squares(given: Tensor, wanted: Tensor) -> Tensor:
    if given.shape[1:] != wanted.shape[1:] or len(wanted) not in (1, len(given)):
        raise ValueError(
            f"features {tuple(given.shape)} cannot be compared with {tuple(wanted.shape)}: "
            "the target needs the images' size, and as many images, or one"
        )
    return (given - wanted).square()
