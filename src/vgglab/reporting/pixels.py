"""Pictures as tensors: small, in grids, under heat, of figures; and as PNGs.

Of an image with one channel its grey is shown, of one with more than three the first three.
"""

import io
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional
from torchvision.utils import make_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_COLUMNS = 8
_LEGIBLE = 64  # pixels: a grid's smaller images are enlarged towards this side
_OPAQUE = 0.7  # of the heat where it is greatest: the image still shows through


def as_rgb(images: Tensor) -> Tensor:
    """(..., C, H, W) to (..., 3, H, W)."""
    channels = 3 if images.shape[-3] >= 3 else 1
    return images[..., :channels, :, :].expand(*images.shape[:-3], 3, -1, -1)


def as_array(image: Tensor) -> "NDArray[np.uint8]":
    """(C, H, W) uint8 as Pillow and matplotlib take it, (H, W, 3)."""
    pixels: NDArray[np.uint8] = as_rgb(image).movedim(0, 2).contiguous().cpu().numpy()
    return pixels


def png(image: Tensor) -> bytes:
    """(C, H, W) uint8 as a PNG; a fifth larger than need be, in a third of the time."""
    buffer = io.BytesIO()
    Image.fromarray(as_array(image)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def reduced(images: Tensor, side: int) -> Tensor:
    """(..., H, W) uint8, their longer side at most so many pixels."""
    longer = max(images.shape[-2:])
    if longer <= side:
        return images
    size = [max(1, round(length * side / longer)) for length in images.shape[-2:]]
    return functional.resize(images, size, antialias=True)


def thumbnail(images: Tensor, side: int = 128) -> Tensor:
    """Images of a size to look at.

    Args:
        images: (..., C, H, W) uint8.
        side: pixels of the longer side, at most, and at least half of it.

    Returns:
        (..., 3, h, w) uint8; small ones are enlarged by a whole factor, each pixel a square.
    """
    return _enlarged(as_rgb(reduced(images, side)), side)


def image_grid(images: Tensor, columns: int = _COLUMNS) -> Tensor:
    """Lay images out in rows, small ones enlarged so that a person can see them.

    Args:
        images: (N, C, H, W), uint8.
        columns: images in a row.

    Returns:
        (3, height, width), uint8.
    """
    return make_grid(_enlarged(as_rgb(images), _LEGIBLE), nrow=columns, padding=2, pad_value=255)


def filter_grid(network: nn.Module) -> Tensor:
    """The first convolution's filters, their input channels as red, green and blue.

    Grey is zero. Each filter is scaled by its own largest weight, so that faint ones show too.

    Returns:
        (3, height, width) uint8, eight filters in a row.

    Raises:
        ValueError: the network has no 2-D convolution.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach().float().cpu()
            largest = weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
            pixels = 255 * (0.5 + 0.5 * weight / largest)
            return image_grid(pixels.round().to(torch.uint8))
    raise ValueError(f"{type(network).__name__} has no 2-D convolution whose filters could show")


def heated(image: Tensor, heat: Tensor) -> Tensor:
    """An image under a heat map, transparent where it is 0.

    Args:
        image: (C, H, W) uint8.
        heat: (h, w), at least 0, such as a Grad-CAM; enlarged to the image's size, and scaled to
            its largest value.

    Returns:
        (3, H, W) uint8, on the CPU.
    """
    from matplotlib import colormaps

    given = heat.detach().float().cpu()[None, None]
    large = nn.functional.interpolate(given, tuple(image.shape[-2:]), mode="bilinear")[0, 0]
    share = (large / large.max().clamp(min=1e-12)).numpy()
    colours = 255 * colormaps["turbo"](share)[..., :3]
    opacity = _OPAQUE * share[..., None]
    mixed = (1 - opacity) * as_array(image) + opacity * colours
    return torch.from_numpy(mixed.round().astype(np.uint8)).movedim(2, 0)


def rendered(figure: "Figure") -> Tensor:
    """The figure's pixels, (3, height, width) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    return torch.from_numpy(pixels.copy()).movedim(2, 0)


def _enlarged(images: Tensor, side: int) -> Tensor:
    """(..., H, W), by a whole factor, as far as they stay within a side."""
    factor = max(1, side // max(images.shape[-2:]))
    return images.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
