"""Text on a picture: cut to a width, in fonts that have its letters."""

from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont

_DOTS = "…"
# A mark, and its colour.
RIGHT = ("✓", "#2e7d32")
WRONG = ("✗", "#c0392b")


class Lettering:
    """One size of text: DejaVu Sans, which matplotlib brings, and the machine's fonts for letters
    that it lacks (Chinese, Japanese, Korean).

    Args:
        size: pixels.
        bold: whether DejaVu's bold is taken.
    """

    def __init__(self, size: int, *, bold: bool = False) -> None:
        self.size = size
        name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
        self._first = str(Path(matplotlib.get_data_path(), "fonts", "ttf", name))

    def width(self, text: str) -> float:
        """Pixels."""
        return sum(font.getlength(part) for font, part in self._parts(text))

    def shortened(self, text: str, width: float, *, keep_end: bool = False) -> str:
        """The text, or as much of it as fits beside an ellipsis.

        Args:
            text: one line.
            width: pixels.
            keep_end: cut in the middle, as of file names, whose ends tell them apart.
        """
        if self.width(text) <= width:
            return text
        fits, fails = 0, len(text)
        while fails - fits > 1:
            count = (fits + fails) // 2
            if self.width(_cut(text, count, keep_end)) <= width:
                fits = count
            else:
                fails = count
        return _cut(text, fits, keep_end)

    def write(
        self, canvas: ImageDraw.ImageDraw, at: tuple[float, float], text: str, fill: str
    ) -> None:
        """Write one line, its middle (of height) and left end at `at`."""
        left, middle = at
        for font, part in self._parts(text):
            canvas.text((left, middle), part, fill=fill, font=font, anchor="lm")
            left += font.getlength(part)

    def _parts(self, text: str) -> Iterator[tuple[ImageFont.FreeTypeFont, str]]:
        for path, letters in groupby(text, lambda letter: _font_with(letter, self._first)):
            yield _font(path, self.size), "".join(letters)


def _cut(text: str, count: int, keep_end: bool) -> str:
    end = (2 * count + 2) // 3 if keep_end else 0
    return text[: count - end] + _DOTS + text[len(text) - end :]


@cache
def _font_with(letter: str, first: str) -> str:
    if ord(letter) in _letters(first):
        return first
    # Where no font has it, the first draws a box.
    return next((path for path in _other_fonts() if ord(letter) in _letters(path)), first)


@cache
def _letters(path: str) -> frozenset[int]:
    """Code points; none of a font that cannot be drawn at any size, as of coloured bitmaps."""
    try:
        _font(path, 16)
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@cache
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@cache
def _other_fonts() -> list[str]:
    from matplotlib.font_manager import findSystemFonts  # it reads its cache, or makes one

    return sorted(findSystemFonts())
