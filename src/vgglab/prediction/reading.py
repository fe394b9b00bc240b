"""Image files decoded by threads, in order, while the network is busy with those before."""

import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vgglab.data.decoding import decode
from vgglab.data.transforms import Preprocessing
from vgglab.errors import BrokenImageError
from vgglab.reporting.pixels import reduced

_THREADS = 16  # each may hold a decoded image of `MAX_PIXELS`


@dataclass(frozen=True)
class ReadImage:
    """A file's image, or why there is none."""

    path: Path
    seen: Tensor | None
    """(channels, *size) uint8, as the network sees it. None: the file cannot be read."""
    whole: Tensor | None = None
    """(3, h, w) uint8, the image before the crop, for people to look at, where it was wanted."""
    height: int = 0
    """Of the whole image as stored, pixels."""
    width: int = 0
    error: str = ""
    """Why the file cannot be read."""


def read_images(
    files: Sequence[Path],
    preprocessing: Preprocessing,
    *,
    ahead: int,
    skip: bool = False,
    whole_side: int | None = None,
) -> Generator[ReadImage, None, None]:
    """Decode each file once, in order.

    torchvision and Pillow decode without Python's lock, so that threads are as fast as processes,
    and start at once.

    Args:
        files: of any formats that `vgglab.data.decoding.decode` reads.
        preprocessing: the network's.
        ahead: images that may wait to be taken; memory holds no more.
        skip: hand on why a file cannot be read, instead of raising it.
        whole_side: also keep the whole image, its longest side reduced to so many pixels.

    Raises:
        BrokenImageError: a file cannot be read, where `skip` is off.
    """

    def read(path: Path) -> ReadImage:
        try:
            image = decode(path)
        except BrokenImageError as error:
            if not skip:
                raise
            return ReadImage(path, None, error=str(error))
        height, width = image.shape[-2:]
        whole = None if whole_side is None else reduced(image, whole_side)
        return ReadImage(path, preprocessing.fit(image), whole, height, width)

    waiting: deque[Future[ReadImage]] = deque()
    pool = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1, len(files)))
    try:
        for path in files:
            waiting.append(pool.submit(read, path))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
