"""Pictures side by side, each with a few words below it: in milliseconds, unlike figures."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms import v2

from vgglab.prediction.formats import printable
from vgglab.prediction.lettering import Lettering
from vgglab.reporting.tensorboard import TensorBoard

LARGEST = 128  # pixels of a thumbnail's longer side, and at least half of it

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


def answer(name: str, probability: float, *, is_right: bool) -> Line:
    """What a network takes an image for."""
    mark, colour = ("✓", "#2e7d32") if is_right else ("✗", "#c0392b")
    return Line(f"{mark} {name}", f"{probability:.0%}", colour)


def thumbnail(image: Tensor) -> Tensor:
    """An image of a size to look at, its longer side 65 to 128 pixels.

    Args:
        image: (C, H, W) uint8. One channel is grey, of more than three the first three show.

    Returns:
        (3, h, w) uint8; small images are enlarged by a whole factor, each pixel a square.
    """
    longer = max(image.shape[-2:])
    colour = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    if longer > LARGEST:
        size = [max(1, round(side * LARGEST / longer)) for side in image.shape[-2:]]
        return v2.functional.resize(colour, size, antialias=True)
    factor = LARGEST // longer
    return colour.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


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
        sheet.paste(Image.fromarray(tile.permute(1, 2, 0).contiguous().numpy()), (left, top))
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
    # Lazily: all of TensorBoard's protocol buffers.
    from tensorboard.compat.proto.summary_pb2 import Summary

    _, height, width = picture.shape
    encoded = png(picture)
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
    summary = Summary(value=[Summary.Value(tag=tag, image=image)])
    for board in boards:
        board.experiment._get_file_writer().add_summary(summary, step)


def png(picture: Tensor) -> bytes:
    """(3, height, width) uint8 as a PNG; a fifth larger than need be, in a third of the time."""
    buffer = io.BytesIO()
    pixels = picture.permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
