"""Which part of a stored image the network sees: numbers only, the pixels are `resampling`'s.

Each kind of cropping turns an image's size and its random numbers into a `Cut`. The numbers come
from `sampling.uniforms`, so that a cut depends on (seed, epoch, image) and on nothing else.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

TrainCrop = Literal["random_resized", "random", "none"]

AREA = (0.08, 1.0)  # of the image, and width to height: torchvision's defaults (arXiv 1409.4842)
ASPECT = (3 / 4, 4 / 3)
TRIES = 10


class Cut(NamedTuple):
    """How one stored image becomes as large as the network's input.

    A region of it is resized, and a crop taken from the result at whole pixels. Pixels throughout.
    """

    top: float
    left: float
    height: float
    width: float
    """The region; a fraction where the image was decoded at a reduced size."""
    resized_height: int
    resized_width: int
    """What the region is resized to (bilinear, antialiased)."""
    crop_top: int
    crop_left: int
    """Of the crop, in the resized region. Negative: black comes in on all sides."""
    crop_height: int
    crop_width: int

    @property
    def reduction(self) -> int:
        """1, 2, 4 or 8: how many times smaller the image may be decoded without enlarging it."""
        room = min(self.height / self.resized_height, self.width / self.resized_width)
        return next((factor for factor in (8, 4, 2) if factor <= room), 1)

    def of_reduced(self, factor: int) -> "Cut":
        """The same cut of the image decoded `factor` times smaller. Exact: nothing is rounded."""
        if factor == 1:
            return self
        return self._replace(
            top=self.top / factor,
            left=self.left / factor,
            height=self.height / factor,
            width=self.width / factor,
        )


@dataclass(frozen=True)
class Cropping(ABC):
    """One way to cut images down to `size`."""

    size: tuple[int, int]
    """Height and width of the network's input, pixels."""
    channels: int
    """1: grey, 3: RGB; images of the other kind are converted."""
    draws: ClassVar[int] = 0
    """How many random numbers an image needs."""

    @abstractmethod
    def cut(self, height: int, width: int, numbers: Sequence[float] = ()) -> Cut:
        """The cut of an image of `height` and `width` by `draws` numbers in [0, 1)."""


@dataclass(frozen=True)
class RandomResizedCropping(Cropping):
    """torchvision's RandomResizedCrop: a box of a drawn share of the area and aspect ratio.

    Of one image, on Python's numbers, as each file has a size of its own; for batches of one size
    `augmentation.resized_crop_flip` draws all boxes at once, on the device.
    """

    area: tuple[float, float] = AREA
    """The smallest and the largest share of the image's area."""
    draws: ClassVar[int] = 2 * TRIES + 2

    def cut(self, height: int, width: int, numbers: Sequence[float] = ()) -> Cut:
        box_height, box_width = self._box(height, width, numbers)
        down, right = numbers[2 * TRIES :]
        if box_height is None or box_width is None:
            box_height, box_width = widest(height, width)
            top, left = (height - box_height) // 2, (width - box_width) // 2
        else:
            top = int(down * (height - box_height + 1))
            left = int(right * (width - box_width + 1))
        return Cut(top, left, box_height, box_width, *self.size, 0, 0, *self.size)

    def _box(
        self, height: int, width: int, numbers: Sequence[float]
    ) -> tuple[int, int] | tuple[None, None]:
        low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
        smallest, largest = self.area
        for i in range(0, 2 * TRIES, 2):
            area = height * width * (smallest + numbers[i] * (largest - smallest))
            aspect = math.exp(low + numbers[i + 1] * (high - low))
            box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < box_width <= width and 0 < box_height <= height:
                return box_height, box_width
        return None, None


@dataclass(frozen=True)
class RandomCropping(Cropping):
    """The paper's section 3.1: the shortest side resized to S, one random crop of the result."""

    scale: tuple[int, int]
    """The smallest and the largest S, pixels; drawn anew for each image."""
    draws: ClassVar[int] = 3

    def cut(self, height: int, width: int, numbers: Sequence[float] = ()) -> Cut:
        scale, down, right = numbers
        smallest, largest = self.scale
        resized = resized_size(height, width, smallest + int(scale * (largest - smallest + 1)))
        rows, columns = resized[0] - self.size[0], resized[1] - self.size[1]
        offset = (
            int(down * (rows + 1)) if rows >= 0 else -(-rows // 2),
            int(right * (columns + 1)) if columns >= 0 else -(-columns // 2),
        )
        return Cut(0, 0, height, width, *resized, *offset, *self.size)


@dataclass(frozen=True)
class CentreCropping(Cropping):
    """Evaluation: the shortest side resized, the centre of the result. Draws nothing."""

    resize: int
    """The shortest side, pixels."""

    def cut(self, height: int, width: int, numbers: Sequence[float] = ()) -> Cut:
        resized = resized_size(height, width, self.resize)
        offset = _centre(resized[0], self.size[0]), _centre(resized[1], self.size[1])
        return Cut(0, 0, height, width, *resized, *offset, *self.size)


def resized_size(height: int, width: int, shortest: int) -> tuple[int, int]:
    """Height and width with the shortest side at `shortest`, as torchvision truncates the other."""
    if height <= width:
        return shortest, int(shortest * width / height)
    return int(shortest * height / width), shortest


def widest(height: int, width: int) -> tuple[int, int]:
    """Height and width of the largest box whose aspect ratio is allowed."""
    if width / height < ASPECT[0]:
        return round(width / ASPECT[0]), width
    if width / height > ASPECT[1]:
        return height, round(height * ASPECT[1])
    return height, width


def _centre(side: int, crop: int) -> int:
    """Where torchvision's `center_crop` begins; it pads what is smaller than the crop."""
    return round((side - crop) / 2) if side >= crop else -((crop - side) // 2)
