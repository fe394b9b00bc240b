"""Pictures of what a network sees: its first filters, its maps, what speaks for a class."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vgglab.files import replacing
from vgglab.reporting.pictures import image_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_COLUMNS = 8
_OPAQUE = 0.7  # of the heat where it is greatest: the image still shows through


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
            return image_grid(pixels.round().to(torch.uint8), _COLUMNS)
    raise ValueError(f"{type(network).__name__} has no 2-D convolution whose filters could show")


def feature_map_figure(image: Tensor, maps: Tensor, title: str, count: int) -> "Figure":
    """An image beside the maps that answer to it most strongly, each with its channel's number.

    Each map is drawn from its own smallest value (dark) to its largest (bright); they are ordered
    by channel.

    Args:
        image: (C, H, W) uint8, as the network saw it.
        maps: (channels, h, w) of one layer.
        title: over the maps.
        count: maps to draw, those of the largest mean magnitude.

    Returns:
        A matplotlib figure that belongs to no window and no global state.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    maps = maps.detach().float().cpu()
    strength = maps.abs().mean((1, 2))
    channels = strength.topk(min(count, len(maps))).indices.sort().values
    coloured = colormaps["viridis"](_scaled(maps[channels]).numpy(), bytes=True)[..., :3]
    grid = image_grid(torch.from_numpy(coloured).permute(0, 3, 1, 2), _COLUMNS)
    height = max(4.0, 10.5 * grid.shape[1] / grid.shape[2])  # inches; the grid is 10.5 wide
    figure = Figure(figsize=(14, height), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 3))
    _show(left, image, "input")
    _show(right, grid, title)
    cell = grid.shape[2] / min(_COLUMNS, len(channels))  # pixels
    for place, channel in enumerate(channels.tolist()):
        row, column = divmod(place, _COLUMNS)
        right.text(
            (column + 0.06) * cell,
            (row + 0.06) * cell,
            str(channel),
            va="top",
            fontsize=8,
            color="white",
            path_effects=[withStroke(linewidth=2, foreground="black")],
        )
    return figure


def heat_figure(image: Tensor, heat: Tensor, caption: str, title: str) -> "Figure":
    """An image, and beside it the same under a heat map, transparent where it is 0.

    Args:
        image: (C, H, W) uint8, as the network saw it.
        heat: as `heated` takes it.
        caption: over the image.
        title: over the heat map.

    Returns:
        A matplotlib figure that belongs to no window and no global state.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.4), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    _show(left, image, caption)
    _show(right, heated(image, heat), title)
    return figure


def heated(image: Tensor, heat: Tensor) -> Tensor:
    """An image under a heat map, transparent where it is 0.

    Args:
        image: (C, H, W) uint8; one channel is grey, of more than three the first three show.
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
    mixed = (1 - opacity) * _colour(image) + opacity * colours
    return torch.from_numpy(mixed.round().astype(np.uint8)).permute(2, 0, 1)


def rendered(figure: "Figure") -> Tensor:
    """The figure's pixels, (3, height, width) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def write_png(image: Tensor, path: Path) -> None:
    """Write (3, height, width) uint8; the file is whole or absent.

    Raises:
        OSError: the folder is missing or cannot be written.
    """
    with replacing(path) as temporary:
        Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(temporary, format="PNG")


def _scaled(maps: Tensor) -> Tensor:
    """Each of (N, h, w) from 0 to 1; 0 where a map has one value everywhere."""
    smallest = maps.amin((1, 2), keepdim=True)
    span = maps.amax((1, 2), keepdim=True) - smallest
    return (maps - smallest) / span.clamp(min=1e-12)


def _colour(image: Tensor) -> "NDArray[np.uint8]":
    """(H, W, 3) of (C, H, W)."""
    shown = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    pixels: NDArray[np.uint8] = shown.permute(1, 2, 0).cpu().numpy()
    return pixels


def _show(axes: "Axes", image: Tensor, title: str) -> None:
    axes.imshow(_colour(image), interpolation="nearest")
    axes.set_title(title, fontsize=11, parse_math=False)
    axes.set_axis_off()
