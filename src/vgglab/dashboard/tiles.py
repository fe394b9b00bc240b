"""Pictures side by side, each with a few words below it: in milliseconds, unlike figures."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vgglab.reporting.lettering import RIGHT, WRONG, Lettering
from vgglab.reporting.pixels import as_array, png
from vgglab.reporting.tensorboard import TensorBoard
from vgglab.text import printable

_GAP = 8
_LINE = 16
_TEXT = Lettering(12)


class Line(NamedTuple):
    """One line below a picture."""

    text: str
    """Cut to the picture's width."""
    end: str = ""
    """At the right, and whole: such as a probability."""
    colour: str = "black"


def answer_line(name: str, probability: float, *, is_right: bool) -> Line:
    """What a network takes an image for."""
    mark, colour = RIGHT if is_right else WRONG
    return Line(f"{mark} {name}", f"{probability:.0%}", colour)


def captioned(tiles: Sequence[Tensor], captions: Sequence[Sequence[Line]], columns: int) -> Tensor:
    """Lay pictures out in rows, each with its lines below.

    Args:
        tiles: at least one, each (3, h, w) uint8, all of one size.
        captions: the lines of each tile, as many for all.
        columns: tiles in a row. TensorBoard shrinks a picture to some 350 pixels of width until
            one asks for its actual size: more than four thumbnails have no legible lines there.

    Returns:
        (3, height, width) uint8, on white.
    """
    _, height, width = tiles[0].shape
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    cell = (width + _GAP, height + len(captions[0]) * _LINE + _GAP)
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), "white")
    canvas = ImageDraw.Draw(sheet)
    for place, (tile, lines) in enumerate(zip(tiles, captions, strict=True)):
        row, column = divmod(place, columns)
        left, top = column * cell[0] + _GAP, row * cell[1] + _GAP
        sheet.paste(Image.fromarray(as_array(tile)), (left, top))
        for number, (text, end, colour) in enumerate(lines):
            middle = top + height + (number + 0.5) * _LINE + 1
            end_width = _TEXT.width(end)
            text = _TEXT.shortened(printable(text), width - end_width - _GAP)
            _TEXT.write(canvas, (left, middle), text, colour)
            _TEXT.write(canvas, (left + width - end_width, middle), end, colour)
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)


def show(picture: Tensor, tag: str, step: int, boards: Sequence[TensorBoard]) -> None:
    """Write (3, height, width) uint8 into TensorBoard, in half the time of its `add_image`."""
    if not boards:
        return
    from tensorboard.compat.proto.summary_pb2 import Summary

    _, height, width = picture.shape
    encoded = png(picture)
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
    summary = Summary(value=[Summary.Value(tag=tag, image=image)])
    for board in boards:
        board.write(summary, step)
