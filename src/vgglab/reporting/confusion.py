"""The confusion matrix: as HTML with the accuracy of each class, and as a figure."""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from vgglab.reporting.page import note
from vgglab.reporting.record import Confusion
from vgglab.text import percent, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COUNTS_UP_TO = 20  # classes: more counts than 20 x 20 cannot be read
_CELLS_UP_TO = 250  # a side: of more classes neighbours are drawn together
_LEVEL_UP_TO = 3  # letters: longer names stand upright over their columns
_WORST = 20  # classes listed when there are more
_BLUE = (47, 111, 222)  # --c0 of the page
# Of the figure.
_LABELS_UP_TO = 100  # classes
_MISTAKES = 40
_LETTERS = 20  # of a class's name
_LIST = 4.5  # inches


def confusion_section(confusion: Confusion) -> str:
    """Two parts side by side: the matrix, and the classes with what they are mistaken for."""
    classes, counts = confusion.classes, torch.tensor(confusion.matrix, dtype=torch.int64)
    picture = _cells(classes, counts) if len(classes) <= _COUNTS_UP_TO else _pixels(counts)
    rule = "Rows are the true classes, columns the predictions; the colour is the row's share."
    return f'{note(rule)}<div class="sides">{picture}{_classes(classes, counts)}</div>'


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
        names = [shortened(name, _LETTERS) for name in classes]
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


def _cells(classes: Sequence[str], counts: Tensor) -> str:
    share = _shares(counts)
    names = [escape(name) for name in classes]  # with a title: a long one is cut off
    level = ' class="level"' if max(map(len, classes)) <= _LEVEL_UP_TO else ""
    heads = "".join(f'<th scope="col" title="{n}"><span{level}>{n}</span></th>' for n in names)
    rows = []
    for index, name in enumerate(names):
        cells = []
        for count, part in zip(counts[index].tolist(), share[index].tolist(), strict=True):
            dark = ' class="dark"' if part > 0.5 else ""
            text = count or ""
            cells.append(f'<td{dark} style="--share:{part:.3f}">{text}</td>')
        rows.append(f'<tr><th scope="row" title="{name}">{name}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="scroll"><table class="confusion"><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _pixels(counts: Tensor) -> str:
    share = _shares(_blocks(counts))
    # Blue of varying opacity shows on a light and on a dark page. The root lifts rare mistakes,
    # which are what one looks for.
    opacity = (share.sqrt() * 255).round().to(torch.uint8)
    image = Image.new("RGBA", (len(share), len(share)), _BLUE)
    image.putalpha(Image.fromarray(opacity.numpy()))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="confusion" alt="confusion matrix" src="data:image/png;base64,{data}">'


def _classes(classes: Sequence[str], counts: Tensor) -> str:
    totals = counts.sum(1)
    accuracy = counts.diagonal() / totals.clamp(min=1)
    shown = [index for index in range(len(classes)) if totals[index] > 0]
    caption = ""
    if len(shown) > _COUNTS_UP_TO:
        caption = f"<caption>The {_WORST} hardest of {len(classes):,} classes</caption>"
        shown = sorted(shown, key=lambda index: float(accuracy[index]))[:_WORST]
    rows = []
    for index in shown:
        wrong = counts[index].clone()
        wrong[index] = 0
        most = int(wrong.argmax())
        taken_for = f"{escape(classes[most])} ({int(wrong[most])})" if wrong[most] > 0 else ""
        rows.append(
            f'<tr><th scope="row" class="name">{escape(classes[index])}</th>'
            f'<td class="number">{percent(float(accuracy[index]), ".1f")}</td>'
            f'<td><div class="bar" style="--share:{float(accuracy[index]):.3f}"></div></td>'
            f'<td class="number">{int(totals[index]):,}</td><td class="name">{taken_for}</td></tr>'
        )
    return (
        f'<div class="scroll rest"><table class="plain">{caption}<thead><tr><th>class</th>'
        '<th class="number">accuracy</th><th></th><th class="number">images</th>'
        f"<th>most often taken for</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _shares(counts: Tensor) -> Tensor:
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def _blocks(counts: Tensor) -> Tensor:
    """At most 250 x 250, each the sum of neighbours: ImageNet's order puts similar classes side by
    side, so blocks of confusion show.
    """
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
            names = " → ".join(shortened(classes[label], _LETTERS) for label in (true, predicted))
            lines.append(f"{times:.0f}  {names}")
    return "\n".join(lines)
