"""One image of a contact sheet: what it is, what speaks for its first class, and its classes."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vgglab.data.transforms import Preprocessing
from vgglab.prediction.answers import Prediction
from vgglab.prediction.reading import ReadImage
from vgglab.reporting.lettering import RIGHT, WRONG, Lettering
from vgglab.reporting.pixels import as_array, heated
from vgglab.text import printable

CLASSES = 5  # at most

# Pixels.
PICTURE = 224  # a side, in which a picture is fitted
LINE = 26
_GAP = 8
CARD_WIDTH = 2 * PICTURE + 3 * _GAP
_PERCENT_WIDTH = 64
_SMALL = 64  # smaller images are enlarged as squares, because these are all that there is

_NAME_SHARE = 0.5  # of a class's line
_DIMMED = 0.35  # the brightness of what the network does not see

INK, GREY, TEXT = "#1f2328", "#6b7280", Lettering(15)
_BACKGROUND, _EMPTY = "#f3f4f6", "#dfe2e7"
_PLAIN = "#4c78a8"
_STRONG = Lettering(15, bold=True)


def pictures(image: ReadImage, heat: Tensor | None, preprocessing: Preprocessing) -> Image.Image:
    """The whole image, dark where the network does not look, beside what it sees, under the heat.

    Args:
        image: with `whole`, or one that cannot be read, which leaves both places empty.
        heat: (h, w), at least 0. None: the image is shown without.
        preprocessing: the network's.
    """
    both = Image.new("RGB", (2 * PICTURE + _GAP, PICTURE), _EMPTY)
    if image.seen is not None and image.whole is not None:
        _paste(both, 0, _framed(image, image.whole, preprocessing))
        _paste(both, PICTURE + _GAP, _under_heat(image.seen, heat))
    return both


def card_height(predictions: Sequence[Prediction]) -> int:
    """Pixels that the tallest card of a page needs."""
    lines = max(len(found.ranked[:CLASSES]) for found in predictions) or 1
    judged = any(found.true_class is not None for found in predictions)
    return PICTURE + 3 * _GAP + (1 + judged + lines) * LINE


def card(found: Prediction, shown: Image.Image, height: int, *, judged: bool) -> Image.Image:
    """`CARD_WIDTH` pixels wide.

    Args:
        found: what the image shows, and the name to show for it as its path.
        shown: its `pictures`.
        height: pixels.
        judged: leave a line for the true class.
    """
    picture = Image.new("RGB", (CARD_WIDTH, height), _BACKGROUND)
    picture.paste(shown, (_GAP, _GAP))
    canvas = ImageDraw.Draw(picture)
    left, middle, width = _GAP, 2 * _GAP + PICTURE + LINE / 2, CARD_WIDTH - 2 * _GAP

    def write(lettering: Lettering, text: str, colour: str, *, keep_end: bool = False) -> None:
        text = lettering.shortened(printable(text), width, keep_end=keep_end)
        lettering.write(canvas, (left, middle), text, colour)

    write(_STRONG, str(found.path), INK, keep_end=True)
    if not found.ranked:
        middle += LINE
        write(TEXT, found.error, WRONG[1])
        return picture
    if judged:
        middle += LINE
        if found.true_class is not None:
            mark, colour = RIGHT if found.is_right else WRONG
            write(TEXT, f"{mark} true class: {found.true_class}", colour)
    for place, (label, probability) in enumerate(found.ranked[:CLASSES]):
        middle += LINE
        colour = _PLAIN
        if label == found.true_class:
            colour = RIGHT[1]
        elif place == 0 and found.true_class is not None:
            colour = WRONG[1]
        _line(canvas, (left, middle), width, label, probability, colour, place == 0)
    return picture


def _line(
    canvas: ImageDraw.ImageDraw,
    at: tuple[float, float],
    width: float,
    label: str,
    probability: float,
    colour: str,
    first: bool,
) -> None:
    """A class, its bar and its probability."""
    left, middle = at
    lettering = _STRONG if first else TEXT
    name_width = _NAME_SHARE * width
    label = lettering.shortened(printable(label), name_width - _GAP)
    lettering.write(canvas, at, label, INK)
    start, length = left + name_width, width - name_width - _PERCENT_WIDTH
    for share, shade in ((1.0, _EMPTY), (probability, colour)):
        end = start + round(share * length)
        if end > start:  # PIL draws both ends
            canvas.rectangle((start, middle - 6, end - 1, middle + 6), shade)
    percent = f"{probability:.1%}"
    lettering.write(canvas, (left + width - lettering.width(percent), middle), percent, INK)


def _paste(target: Image.Image, left: int, picture: Image.Image) -> None:
    """In the middle of its square."""
    target.paste(picture, (left + (PICTURE - picture.width) // 2, (PICTURE - picture.height) // 2))


def _fitted(image: Tensor) -> Image.Image:
    """(1 or 3, h, w) uint8, its longest side made `PICTURE`."""
    picture = Image.fromarray(as_array(image))
    scale = PICTURE / max(picture.size)
    size = [max(1, round(side * scale)) for side in picture.size]
    kind = Image.Resampling.NEAREST if max(picture.size) <= _SMALL else Image.Resampling.BICUBIC
    return picture.resize((size[0], size[1]), kind)


def _framed(image: ReadImage, whole: Tensor, preprocessing: Preprocessing) -> Image.Image:
    """The whole image, dark where the crop ends."""
    picture = _fitted(whole)
    # Sides of the crop to those of the image, once its shortest side is resized.
    scale = min(image.height, image.width) / (preprocessing.resize or min(preprocessing.size))
    height = min(1.0, preprocessing.size[0] * scale / image.height) * picture.height
    width = min(1.0, preprocessing.size[1] * scale / image.width) * picture.width
    left, top = (picture.width - width) / 2, (picture.height - height) / 2
    box = (round(left), round(top), round(left + width), round(top + height))
    dark = picture.point(lambda value: value * _DIMMED)
    dark.paste(picture.crop(box), box)
    return dark


def _under_heat(seen: Tensor, heat: Tensor | None) -> Image.Image:
    """What the network sees."""
    picture = _fitted(seen)
    if heat is None:
        return picture
    pixels = torch.from_numpy(np.array(picture)).movedim(2, 0)
    return Image.fromarray(as_array(heated(pixels, heat)))
