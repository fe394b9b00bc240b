"""Images of many sizes in batches of one shape, so that whole images keep a device as busy as
crops."""

from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional

from vgglab.data.images import ImageSet
from vgglab.data.loading import ResumableLoader
from vgglab.data.sampling import BatchKeys, ShardedBatches
from vgglab.data.transforms import with_channels
from vgglab.errors import BrokenImageError
from vgglab.progress import progress

_CHUNK = 16  # images that a worker prepares at a time: few messages, little memory
_WAITING = 8  # full batches a scale that may wait; photographs have few common shapes, many rare


class ShapeBatch(NamedTuple):
    """Images of one scale and one shape."""

    scale: int
    """Their shortest side, pixels."""
    indices: Tensor
    """(N,) int64, indices in the set."""
    images: Tensor
    """(N, C, h, w) uint8."""


class _Shape(NamedTuple):
    scale: int
    height: int
    width: int


class _Chunk(NamedTuple):
    """What a worker sends."""

    found: list[tuple[_Shape, int]]
    """Each image at each scale: its shape and its index."""
    pixels: Tensor
    """Of all of them in a row: one tensor, because each that is sent holds a file open."""
    broken: dict[int, str]
    """Images that cannot be read, by index: a line each."""


def shape_batches(
    images: ImageSet,
    scales: Sequence[int],
    *,
    channels: int,
    batch_size: int,
    num_workers: int = 0,
    description: str,
    skipped: dict[int, str] | None = None,
) -> Generator[ShapeBatch, None, None]:
    """Every image once at every scale, resized isotropically, in batches of one shape.

    An image is decoded once, by a worker, and resized from that to each scale. A batch leaves when
    it is full. When too many images wait for others of their shape, the fullest batch leaves as it
    is, so that memory stays bounded; the rest leaves at the end.

    Args:
        images: of any sizes.
        scales: shortest sides, pixels, each once.
        channels: 1 or 3: RGB becomes grey and grey RGB where the other is wanted.
        batch_size: of square images at the smallest scale. Larger images come in batches of fewer,
            by their area, so that all batches need about the same memory.
        num_workers: loader processes. 0 decodes in this one.
        description: of the progress.
        skipped: where given, an image that cannot be read comes in no batch but in here, by its
            index, with a line that names it.

    Raises:
        BrokenImageError: an image cannot be read, and `skipped` is not given.
    """
    loader = ResumableLoader(
        _Resized(images, tuple(scales), channels, skip=skipped is not None),
        ShardedBatches(len(images), _CHUNK),
        num_workers=num_workers,
    )
    waiting = _Waiting(batch_size * min(scales) ** 2, _WAITING * len(scales))
    with progress(description, len(images)) as advance:
        for chunk in loader:
            for shape, index, image in _unpacked(chunk.found, chunk.pixels, channels):
                yield from waiting.add(shape, index, image)
            if skipped is not None:
                skipped.update(chunk.broken)
            advance(len(chunk.found) // len(scales) + len(chunk.broken))
        yield from waiting.rest()


@dataclass
class _Resized(Dataset[_Chunk]):
    """Runs in the workers: keys in, their images at all scales out."""

    images: ImageSet
    scales: tuple[int, ...]
    channels: int
    skip: bool

    def __getitem__(self, keys: BatchKeys) -> _Chunk:
        found, pixels, broken = [], [torch.empty(0, dtype=torch.uint8)], {}
        for index in keys.images:
            try:
                image = with_channels(self.images.image(index), self.channels)
            except BrokenImageError as error:
                if not self.skip:
                    raise
                broken[index] = str(error)
                continue
            for scale in self.scales:
                resized = functional.resize(image, [scale], antialias=True)
                found.append((_Shape(scale, *resized.shape[-2:]), index))
                pixels.append(resized.flatten())
        return _Chunk(found, torch.cat(pixels), broken)


def _unpacked(
    found: list[tuple[_Shape, int]], pixels: Tensor, channels: int
) -> Iterator[tuple[_Shape, int, Tensor]]:
    counts = [channels * shape.height * shape.width for shape, _ in found]
    for (shape, index), image in zip(found, torch.split(pixels, counts), strict=True):
        # A copy: a view would keep the whole chunk for as long as the image waits.
        yield shape, index, image.view(channels, shape.height, shape.width).clone()


class _Waiting:
    """Images that wait until their batch is full.

    Args:
        area: pixels of a full batch, all its images together; one image is always enough.
        limit: how many full batches may wait in all.
    """

    def __init__(self, area: int, limit: int) -> None:
        self.area = area
        self.limit = limit * area
        self.total = 0
        self.buckets: dict[_Shape, list[tuple[int, Tensor]]] = defaultdict(list)

    def add(self, shape: _Shape, index: int, image: Tensor) -> Iterator[ShapeBatch]:
        self.buckets[shape].append((index, image))
        self.total += shape.height * shape.width
        if len(self.buckets[shape]) >= self.area // (shape.height * shape.width):
            yield self._leave(shape)
        elif self.total > self.limit:
            yield self._leave(max(self.buckets, key=self._waiting_area))

    def rest(self) -> Iterator[ShapeBatch]:
        for shape in list(self.buckets):
            yield self._leave(shape)

    def _leave(self, shape: _Shape) -> ShapeBatch:
        self.total -= self._waiting_area(shape)
        indices, images = zip(*self.buckets.pop(shape), strict=True)
        return ShapeBatch(shape.scale, torch.tensor(indices), torch.stack(images))

    def _waiting_area(self, shape: _Shape) -> int:
        return len(self.buckets[shape]) * shape.height * shape.width
