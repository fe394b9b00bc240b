"""The confusion matrix and the accuracy of each class, as HTML."""

import base64
import io
import math
from collections.abc import Sequence
from html import escape

import torch
from PIL import Image
from torch import Tensor, nn

from vgglab.reporting.record import Confusion

_CELLS_UP_TO = 20  # classes: a larger table of numbers is a picture
_PIXELS = 250  # a side of that picture
_LEVEL_UP_TO = 3  # letters: longer names stand upright over their columns
_WORST = 20  # classes listed when there are more
_BLUE = (47, 111, 222)  # --c0 of the page


def confusion_section(confusion: Confusion) -> str:
    """Two parts side by side: the matrix, and the classes with what they are mistaken for."""
    classes, counts = confusion.classes, torch.tensor(confusion.matrix, dtype=torch.int64)
    picture = _cells(classes, counts) if len(classes) <= _CELLS_UP_TO else _pixels(counts)
    note = "Rows are the true classes, columns the predictions; the colour is the row's share."
    return (
        f'<p class="note">{note}</p><div class="sides">{picture}{_classes(classes, counts)}</div>'
    )


def _share(counts: Tensor) -> Tensor:
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def _cells(classes: Sequence[str], counts: Tensor) -> str:
    share = _share(counts)
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
    # Neighbouring classes share a pixel where there are too many to see: ImageNet's order puts
    # similar ones side by side, so blocks of confusion show.
    block = math.ceil(len(counts) / _PIXELS)
    size = math.ceil(len(counts) / block)
    missing = size * block - len(counts)
    whole = nn.functional.pad(counts, (0, missing, 0, missing))
    share = _share(whole.reshape(size, block, size, block).sum((1, 3)))
    # Blue of varying opacity shows on a light and on a dark page. The root lifts rare mistakes,
    # which are what one looks for.
    opacity = (share.sqrt() * 255).round().to(torch.uint8)
    image = Image.new("RGBA", (size, size), _BLUE)
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
    if len(shown) > _CELLS_UP_TO:
        caption = f"<caption>The {_WORST} hardest of {len(classes):,} classes</caption>"
        shown = sorted(shown, key=lambda index: float(accuracy[index]))[:_WORST]
    rows = []
    for index in shown:
        wrong = counts[index].clone()
        wrong[index] = 0
        most = int(wrong.argmax())
        taken_for = f"{escape(classes[most])} ({int(wrong[most])})" if wrong[most] > 0 else ""
        percent = f"{100 * float(accuracy[index]):.1f} %"
        rows.append(
            f'<tr><th scope="row" class="name">{escape(classes[index])}</th>'
            f'<td class="number">{percent}</td>'
            f'<td><div class="bar" style="--share:{float(accuracy[index]):.3f}"></div></td>'
            f'<td class="number">{int(totals[index]):,}</td><td class="name">{taken_for}</td></tr>'
        )
    return (
        f'<div class="scroll rest"><table class="plain">{caption}<thead><tr><th>class</th>'
        '<th class="number">accuracy</th><th></th><th class="number">images</th>'
        f"<th>most often taken for</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
