"""Contact sheets: pages of cards, as PNGs."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from vgglab.errors import InputError
from vgglab.evaluation.trained import Trained
from vgglab.files import replacing
from vgglab.networks import VGG
from vgglab.networks.attribution import heat_layer, heats
from vgglab.prediction.answers import Answer, Prediction
from vgglab.prediction.card import (
    CARD_WIDTH,
    GREY,
    INK,
    LINE,
    PICTURE,
    TEXT,
    card,
    card_height,
    pictures,
)
from vgglab.prediction.reading import ReadImage
from vgglab.reporting.lettering import Lettering
from vgglab.text import plural, printable

PER_PAGE = 20

_COLUMNS = 4
_MARGIN = 16  # pixels
_TITLE = Lettering(20, bold=True)


class Sheet:
    """Draws cards, and writes a page when it is full: `NAME-001.png` onwards, or `NAME.png` alone.

    Args:
        path: where the sheet is to be.
        files: all that will be added, in order.
        trained: the network, on its device, and its preprocessing.
        checkpoint: where it comes from, for the heading.
        stack: the pages appear together when it is closed without an error.

    Raises:
        InputError: `path` does not end in .png, is a folder, or cannot be written.
    """

    side = PICTURE
    """What `ReadImage.whole` is to be reduced to."""

    def __init__(
        self,
        path: Path,
        files: Sequence[Path],
        trained: Trained,
        checkpoint: str,
        stack: ExitStack,
    ) -> None:
        _check(path)
        count = len(files)
        self.pages = [path]
        if count > PER_PAGE:
            numbers = range(1, math.ceil(count / PER_PAGE) + 1)
            self.pages = [path.with_name(f"{path.stem}-{n:03d}{path.suffix}") for n in numbers]
        seen = trained.preprocessing
        self.layer = heat_layer(trained.network, (seen.channels, *seen.size))
        """Whose Grad-CAM is shown. None: there is none."""
        self._folder = os.path.commonpath([file.absolute().parent for file in files])
        self._title = printable(f"{plural(count, 'image')} by {checkpoint}")
        self._trained = trained
        self._stack = stack
        self._cards: list[tuple[Prediction, Image.Image]] = []
        self._written = 0

    def add(
        self, images: Sequence[ReadImage], predictions: Sequence[Prediction], found: Answer | None
    ) -> None:
        """Add a card an image.

        Args:
            images: each with `whole`, or one that cannot be read.
            predictions: of them, in the same order.
            found: the network's answer. None: none of the images can be read.

        Raises:
            InputError: as `finish`.
        """
        heat: Iterator[Tensor] = iter(())
        network = self._trained.network
        if found is not None and self.layer is not None and isinstance(network, VGG):
            heat = iter(heats(network, found.inputs, self.layer, found.labels[:, 0]))
        for image, prediction in zip(images, predictions, strict=True):
            own = None if image.seen is None else next(heat, None)
            shown = pictures(image, own, self._trained.preprocessing)
            self._cards.append((self._shortly(prediction), shown))
            if len(self._cards) == PER_PAGE:
                self.finish()

    def finish(self) -> None:
        """Write the last page, if it was not full.

        Raises:
            InputError: it cannot be written.
        """
        if not self._cards:
            return
        page = self.pages[self._written]
        try:
            target = self._stack.enter_context(replacing(page))
            # The default level takes three times as long for 3 % less.
            self._page().save(target, format="PNG", compress_level=1)
        except OSError as error:
            raise InputError(f"sheet={page} cannot be written: {error}") from error
        self._written += 1
        self._cards.clear()

    def _shortly(self, found: Prediction) -> Prediction:
        """With the path from the folder that holds all files, and why it cannot be read alone."""
        path = Path(os.path.relpath(found.path.absolute(), self._folder))
        return replace(found, path=path, error=found.error.removeprefix(f"{found.path}: "))

    def _page(self) -> Image.Image:
        predictions = [found for found, _ in self._cards]
        judged = [found for found in predictions if found.true_class is not None]
        rows = math.ceil(len(self._cards) / _COLUMNS)
        columns = math.ceil(len(self._cards) / rows)
        width = _MARGIN + columns * (CARD_WIDTH + _MARGIN)
        facts = self._facts(judged, width - 2 * _MARGIN)
        top = 2 * _MARGIN + round(1.5 * LINE) + len(facts) * LINE
        height = card_height(predictions)
        page = Image.new("RGB", (width, top + rows * (height + _MARGIN)), "white")
        canvas = ImageDraw.Draw(page)
        title = _TITLE.shortened(self._title, width - 2 * _MARGIN, keep_end=True)
        _TITLE.write(canvas, (_MARGIN, _MARGIN + LINE / 2), title, INK)
        for number, line in enumerate(facts, 2):
            TEXT.write(canvas, (_MARGIN, _MARGIN + number * LINE), line, GREY)
        for place, (found, shown) in enumerate(self._cards):
            row, column = divmod(place, columns)
            corner = (_MARGIN + column * (CARD_WIDTH + _MARGIN), top + row * (height + _MARGIN))
            page.paste(card(found, shown, height, judged=bool(judged)), corner)
        return page

    def _facts(self, judged: Sequence[Prediction], width: int) -> list[str]:
        """One line, or one each where the page is narrow."""
        facts = []
        if len(self.pages) > 1:
            facts.append(f"page {self._written + 1} of {len(self.pages)}")
        if judged:
            right = sum(found.is_right for found in judged)
            facts.append(f"{right} of {len(judged)} right")
        under = "" if self.layer is None else f", under Grad-CAM of its first class ({self.layer})"
        facts.append("left: the image, dark where the network does not look")
        facts.append(f"right: what it sees{under}")
        line = " · ".join(facts)
        if TEXT.width(line) <= width:
            return [line]
        return [TEXT.shortened(fact, width) for fact in facts]


def _check(path: Path) -> None:
    """Refuse before the work what could not be written after it."""
    if path.suffix.lower() != ".png":
        raise InputError(f"sheet={path} must end in .png")
    if path.is_dir():
        raise InputError(f"sheet={path} is a folder; give a file that ends in .png")
    if not path.parent.is_dir():
        raise InputError(f"sheet={path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"sheet={path}: {path.parent} cannot be written")
