"""Images laid out in a grid, and the confusion matrix."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchvision.utils import make_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEGIBLE = 64  # pixels: smaller images are enlarged towards this side
_COUNTS_UP_TO = 20  # classes: more counts than 20 x 20 cannot be read
_LABELS_UP_TO = 100
_CELLS_UP_TO = 250
_MISTAKES = 40
_LETTERS = 20  # of a class's name
_LIST = 4.5  # inches


def image_grid(images: Tensor, columns: int = 8) -> Tensor:
    """Lay images out in rows, small ones enlarged so that a person can see them.

    Args:
        images: (N, C, H, W), uint8. One channel is grey, of more than three the first three show.
        columns: images in a row.

    Returns:
        (3, height, width), uint8.
    """
    factor = max(1, _LEGIBLE // max(images.shape[-2:]))
    images = images.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    channels = images[:, :3] if images.shape[1] >= 3 else images[:, :1]
    return make_grid(channels.expand(-1, 3, -1, -1), nrow=columns, padding=2, pad_value=255)


def confusion_figure(matrix: Tensor, classes: Sequence[str]) -> "Figure":
    """Draw a confusion matrix; the colour is the share of the true class (the row).

    Its scale is that of the square root, which lifts rare mistakes: they are what one looks for.
    Up to 20 classes have their counts. More have the most frequent mistakes beside them by name,
    and of more than 250 neighbours are drawn together.

    Args:
        matrix: (C, C) counts, true class by predicted class.
        classes: C names.

    Returns:
        A matplotlib figure that belongs to no window and no global state.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    count = len(classes)
    counts = matrix.detach().cpu().double()
    share = _shares(_blocks(counts))
    side = min(4 + 0.35 * count, 14)  # inches
    listed = count > _COUNTS_UP_TO
    figure = Figure(figsize=(side + _LIST * listed, side), dpi=100, layout="constrained")
    left: Any = figure
    right: Any = figure
    if listed:
        ((left, right),) = figure.subfigures(1, 2, squeeze=False, width_ratios=(side, _LIST))
    axes = left.add_subplot(xlabel="predicted", ylabel="true")
    norm = PowerNorm(0.5, vmin=0, vmax=1)
    edges = (-0.5, count - 0.5, count - 0.5, -0.5)
    shown = axes.imshow(share.numpy(), cmap="Blues", norm=norm, extent=edges)
    if count <= _LABELS_UP_TO:
        size = min(10, 60 * side / count)  # points: rows of 72 x side / count, with the margins
        names = [_shortened(name) for name in classes]
        axes.set_xticks(range(count), names, rotation=90, parse_math=False, fontsize=size)
        axes.set_yticks(range(count), names, parse_math=False, fontsize=size)
    if listed:
        bar = left.colorbar(shown, ax=axes, shrink=0.5, label="share of the true class")
        bar.set_ticks([0, 0.01, 0.1, 0.3, 1], labels=["0", "1 %", "10 %", "30 %", "100 %"])
        right.text(0.02, 0.97, _mistakes(counts, classes), va="top", parse_math=False)
        return figure
    for row, column in torch.nonzero(counts).tolist():
        axes.text(
            column,
            row,
            f"{counts[row, column]:.0f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if share[row, column] > 0.3 else "black",
        )
    return figure


def _shares(counts: Tensor) -> Tensor:
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def _blocks(counts: Tensor) -> Tensor:
    """At most 250 x 250, each the sum of neighbours."""
    block = -(-len(counts) // _CELLS_UP_TO)
    size = -(-len(counts) // block)
    missing = size * block - len(counts)
    whole = nn.functional.pad(counts, (0, missing, 0, missing))
    return whole.reshape(size, block, size, block).sum((1, 3))


def _mistakes(counts: Tensor, classes: Sequence[str]) -> str:
    wrong = counts.clone().fill_diagonal_(0)
    most = wrong.flatten().sort(descending=True, stable=True)
    lines = ["Most frequent mistakes:", ""]
    for times, place in zip(most.values[:_MISTAKES].tolist(), most.indices.tolist(), strict=False):
        if times:
            true, predicted = divmod(place, len(classes))
            names = f"{_shortened(classes[true])} → {_shortened(classes[predicted])}"
            lines.append(f"{times:.0f}  {names}")
    return "\n".join(lines)


def _shortened(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"
