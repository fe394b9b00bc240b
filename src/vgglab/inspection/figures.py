"""Figures of what a network sees: its maps, and what speaks for a class."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vgglab.reporting.pixels import as_array, heated, image_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 8


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


def _scaled(maps: Tensor) -> Tensor:
    """Each of (N, h, w) from 0 to 1; 0 where a map has one value everywhere."""
    smallest = maps.amin((1, 2), keepdim=True)
    span = maps.amax((1, 2), keepdim=True) - smallest
    return (maps - smallest) / span.clamp(min=1e-12)


def _show(axes: "Axes", image: Tensor, title: str) -> None:
    axes.imshow(as_array(image), interpolation="nearest")
    axes.set_title(title, fontsize=11, parse_math=False)
    axes.set_axis_off()
