"""Receptive fields as tables and pictures."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from torch import Tensor

from vgglab.networks import ReceptiveField
from vgglab.networks.effective_field import Box, EffectiveField
from vgglab.reporting.pixels import as_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PADDING = "#b8b8b8"
_THEORY = "white"
_MEASURED = "#35d0ff"
_MARGIN = 0.06  # of the view, around what is drawn

Measured = Mapping[str, Sequence[EffectiveField]]
"""The effective fields of each network by what it is called."""


def field_records(
    heights: Sequence[ReceptiveField], widths: Sequence[ReceptiveField], measured: Measured
) -> list[dict[str, Any]]:
    """Rows for JSON: name, size, jump, start; `[height, width]` where the axes differ.

    A row whose effective field was measured has it as `effective`: sigma, size, share by network.
    """
    records = []
    for high, wide in zip(heights, widths, strict=True):
        record: dict[str, Any] = {"name": high.name}
        for key in ("size", "jump", "start"):
            of_height, of_width = getattr(high, key), getattr(wide, key)
            record[key] = of_height if of_height == of_width else [of_height, of_width]
        effective = {
            title: {"sigma": field.sigma, "size": field.size, "share": field.share}
            for title, fields in measured.items()
            for field in fields
            if field.layer == high.name
        }
        records.append({**record, "effective": effective} if effective else record)
    return records


def field_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """The theoretical fields of `field_records`, in pixels."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for key in ("size", "jump", "start"):
        table.add_column(key, justify="right", no_wrap=True)
    for record in records:
        table.add_row(record["name"], *(_axes(record[key]) for key in ("size", "jump", "start")))
    return table


def effective_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """The measured fields of `field_records` beside their theoretical size."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    table.add_column("size", justify="right")
    found = [record for record in records if "effective" in record]
    titles = list(found[0]["effective"]) if found else []
    for title in titles:
        table.add_column(f"sigma, {title}", justify="right")
        table.add_column("share of the field", justify="right")
    for record in found:
        cells = []
        for title in titles:
            effective = record["effective"][title]
            cells += [f"{effective['sigma']:.2f}", f"{effective['share']:.0%}"]
        table.add_row(record["name"], _axes(record["size"]), *cells)
    return table


def fields_figure(image: Tensor, boxes: Mapping[str, Box]) -> "Figure":
    """Draw what the central unit of each layer sees, to scale, over an image.

    Args:
        image: (3 or 1, H, W) uint8, the network's input.
        boxes: the theoretical fields by layer. What reaches outside the image is padding, grey.

    Returns:
        A matplotlib figure that belongs to no window and no global state.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Stroke, withStroke

    figure = Figure(figsize=(6.6, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    height, width = image.shape[-2:]
    padded = any(_leaves(field, height, width) for field in boxes.values())
    whole = Box(0, 0, height, width)
    _show(axes, as_array(image), [whole, *boxes.values()], margin=_MARGIN if padded else 0)
    colours = colormaps["Set1"].colors  # type: ignore[attr-defined]
    for number, (layer, field) in enumerate(boxes.items()):
        label = f"{layer}: {_sides(field)}"
        colour = colours[number % len(colours)]
        frame = _frame(field, edgecolor=colour, linewidth=2, label=label)
        frame.set_path_effects([withStroke(linewidth=3.5, foreground="white"), Stroke()])
        axes.add_patch(frame)
    if padded:
        axes.add_patch(Rectangle((0, 0), 0, 0, color=_PADDING, label="padding"))
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def effective_figure(measured: Measured, images: int) -> "Figure":
    """Draw the measured maps, a row a network and a column a layer, each as large as its field.

    Args:
        measured: the same layers for every network.
        images: how many were averaged, for the caption.

    Returns:
        A matplotlib figure that belongs to no window and no global state.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    rows, columns = len(measured), len(next(iter(measured.values())))
    size = (max(2.3 * columns + 0.4, 5.5), 2.6 * rows + 0.4)  # inches
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for line, (title, fields) in zip(grid, measured.items(), strict=True):
        line[0].set_ylabel(title)
        for axes, field in zip(line, fields, strict=True):
            _show(axes, (field.map / field.map.max()).numpy(), [field.box], cmap="inferno")
            axes.add_patch(_frame(field.box, edgecolor=_THEORY, linewidth=1.2))
            centre = (field.box.left + field.box.right) / 2, (field.box.top + field.box.bottom) / 2
            axes.add_patch(
                Circle(
                    centre,
                    2 * field.sigma,
                    fill=False,
                    edgecolor=_MEASURED,
                    linestyle="--",
                    linewidth=1.2,
                )
            )
            axes.set_xlabel(rf"$\sigma$ {field.sigma:.1f} px, {field.share:.0%} of the area")
    for axes, field in zip(grid[0], next(iter(measured.values())), strict=True):
        axes.set_title(f"{field.layer}: {_sides(field.box)}", fontsize="medium")
    averaged = "one image" if images == 1 else f"{images} images"
    figure.supxlabel(
        # Short lines: a figure of one layer is narrow.
        f"mean |gradient| of the central unit\nover {averaged}; square: theoretical field\n"
        r"circle: 2 $\sigma$; grey: padding",
        fontsize="small",
    )
    return figure


def _show(
    axes: "Axes", picture: Any, boxes: Sequence[Box], margin: float = _MARGIN, **style: Any
) -> None:
    """A picture in pixel coordinates, and a view that holds all boxes and a margin around them."""
    height, width = picture.shape[:2]
    axes.imshow(picture, extent=(0, width, height, 0), interpolation="nearest", **style)
    top, left = min(b.top for b in boxes), min(b.left for b in boxes)
    bottom, right = max(b.bottom for b in boxes), max(b.right for b in boxes)
    margin *= max(bottom - top, right - left)
    axes.set_xlim(left - margin, right + margin)
    axes.set_ylim(bottom + margin, top - margin)
    axes.set_aspect("equal")
    axes.set_facecolor(_PADDING)
    axes.set_xticks([])
    axes.set_yticks([])


def _frame(field: Box, **style: Any) -> Any:
    from matplotlib.patches import Rectangle

    width, height = field.right - field.left, field.bottom - field.top
    return Rectangle((field.left, field.top), width, height, fill=False, **style)


def _leaves(field: Box, height: int, width: int) -> bool:
    return min(field.top, field.left) < 0 or field.bottom > height or field.right > width


def _sides(field: Box) -> str:
    return f"{_axes([field.bottom - field.top, field.right - field.left])} px"


def _axes(value: Any) -> str:
    """`44`, or `7 x 1` where height and width differ."""
    sides = value if isinstance(value, list) else [value]
    return " x ".join(f"{side:g}" for side in dict.fromkeys(sides))
