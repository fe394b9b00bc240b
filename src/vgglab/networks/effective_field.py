"""Effective receptive fields: how much each pixel moves the central unit of a layer."""

import difflib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from vgglab.networks.dense import DenseVGG
from vgglab.networks.layers import extract
from vgglab.networks.receptive_field import Axis, receptive_field, trace
from vgglab.networks.vgg import VGG

# Luo et al. 2016, section 4: a pixel belongs to the effective field from 1 - 95.45 % of the most.
THRESHOLD = 1 - 0.9545
_IMAGES_AT_ONCE = 8


class Box(NamedTuple):
    """A rectangle of the image, in pixels from its top left corner; it may reach outside."""

    top: float
    left: float
    bottom: float
    right: float

    @property
    def area(self) -> float:
        return (self.bottom - self.top) * (self.right - self.left)


@dataclass(frozen=True)
class EffectiveField:
    """What the central unit of a layer depends on, measured."""

    layer: str
    box: Box
    """The theoretical field of that unit."""
    map: Tensor
    """(H, W), float32: the mean absolute gradient with respect to each pixel."""
    sigma: float
    """Width of the fitted Gaussian, pixels, mean of both axes."""
    size: float
    """Square root of the number of pixels above `THRESHOLD` of the largest value."""
    share: float
    """Those pixels' share of the theoretical field's area, 0 to 1."""


def central_box(network: nn.Module, images: Tensor, layer: str) -> Box:
    """The theoretical field of the central unit of a layer: row h // 2, column w // 2 of its map.

    Args:
        network: as `receptive_field` takes it.
        images: (N, C, H, W), as the network takes them; the first one runs.
        layer: a name of `receptive_field(network)`.

    Raises:
        ValueError: a layer without a receptive field, or a network that cannot be traced.
    """
    with torch.no_grad():
        maps = _output(network, images[:1], layer)
    return _box(network, maps, layer)


def effective_receptive_field(network: nn.Module, images: Tensor, layer: str) -> EffectiveField:
    """Measure the effective receptive field of a layer, as Luo et al. 2016 (arXiv 1701.04128).

    The gradient of the central unit, a one sent back through each of its channels together, with
    respect to the image; its absolute value is averaged over images and colour channels. The
    Gaussian is fitted by least squares to the sums along each axis, so that a field cut off at the
    image's edge does not look narrower than it is.

    Runs in the mode the network is in (so call `network.eval()` first unless dropout is wanted);
    parameters get no gradients.

    Args:
        network: as `receptive_field` takes it.
        images: (N, C, H, W), as the network takes them, on its device. Fields larger than the
            image are cut off.
        layer: a name of `receptive_field(network)`.

    Raises:
        ValueError: a layer without a receptive field, a network that cannot be traced, or a unit
            that does not depend on these images at all.
    """
    total = torch.zeros(images.shape[-2:], dtype=torch.float64, device=images.device)
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        some = images[start : start + _IMAGES_AT_ONCE].detach().requires_grad_()
        with torch.enable_grad():
            maps = _output(network, some, layer)
            unit = maps[:, :, maps.shape[-2] // 2, maps.shape[-1] // 2]
            (gradient,) = torch.autograd.grad(unit.sum(), some)
        total += gradient.double().abs().sum((0, 1))
    if not total.any():
        raise ValueError(f"the central unit of {layer} does not depend on these images")
    box = _box(network, maps, layer)
    pixels = int((total > THRESHOLD * total.max()).sum())
    field = (total / (len(images) * images.shape[1])).cpu()
    return EffectiveField(
        layer, box, field.float(), fitted_sigma(field), pixels**0.5, pixels / box.area
    )


def fitted_sigma(field: Tensor) -> float:
    """The width of the Gaussian that fits a map (H, W) best, mean over both axes, pixels.

    Least squares on the map's sums along each axis, with the height and the centre free.
    """
    return float(np.mean([_fit(field.double().sum(axis).numpy()) for axis in (0, 1)]))


def _fit(profile: NDArray[np.float64]) -> float:
    from scipy.optimize import curve_fit  # type: ignore[import-untyped]  # slow to import

    positions = np.arange(len(profile)) + 0.5
    weights = profile / profile.sum()
    centre = float(weights @ positions)
    sigma = max(float(weights @ (positions - centre) ** 2) ** 0.5, 0.5)
    (_, _, fitted), _ = curve_fit(
        _gaussian,
        positions,
        profile / profile.max(),
        p0=(1.0, centre, sigma),
        # A field wider than the image leaves a flat profile, whose width nothing tells.
        bounds=((0, 0, 0.01), (np.inf, len(profile), max(len(profile), 1))),
    )
    return float(fitted)


def _gaussian(
    positions: NDArray[np.float64], height: float, centre: float, sigma: float
) -> NDArray[np.float64]:
    return height * np.exp(-((positions - centre) ** 2) / (2 * sigma**2))


def _output(network: nn.Module, images: Tensor, layer: str) -> Tensor:
    if isinstance(network, VGG | DenseVGG):
        return extract(network, images, [layer])[layer]
    graph, names = trace(network)
    nodes = {name: node for node, name in names.items()}
    if layer not in nodes:
        raise _no_field(layer, [row.name for row in receptive_field(network)])
    # Nothing that follows: an in-place ReLU would overwrite the output.
    for node in reversed(list(graph.nodes)):
        if node is nodes[layer]:
            break
        graph.erase_node(node)
    graph.output(nodes[layer])
    output: Tensor = fx.GraphModule(network, graph)(images)
    return output


def _box(network: nn.Module, maps: Tensor, layer: str) -> Box:
    top, bottom = _edges(network, "height", maps.shape[-2], layer)
    left, right = _edges(network, "width", maps.shape[-1], layer)
    return Box(top, left, bottom, right)


def _edges(network: nn.Module, axis: Axis, count: int, layer: str) -> tuple[float, float]:
    rows = {row.name: row for row in receptive_field(network, axis)}
    if layer not in rows:
        raise _no_field(layer, list(rows))
    centre = rows[layer].start + count // 2 * rows[layer].jump
    return centre - rows[layer].size / 2, centre + rows[layer].size / 2


def _no_field(layer: str, names: list[str]) -> ValueError:
    close = difflib.get_close_matches(layer, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return ValueError(
        f"layer {layer!r} has no receptive field of its own; {hint}These have: {', '.join(names)}"
    )
