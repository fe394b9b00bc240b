"""What a data source gives: images with labels and class names, in memory or as files."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from vgglab.data.decoding import decode_bytes, read_file
from vgglab.data.sampling import BatchKeys
from vgglab.errors import InputError

PathBytes = npt.NDArray[np.bytes_]


class ImageSet(ABC):
    """Labelled images. `image(i)` is the image as stored: (C, H, W) uint8, no transform applied."""

    labels: Tensor
    """(N,) int64 on the CPU."""
    classes: Sequence[str]
    skipped: Sequence[str] = ()
    """Of images that could not be read and are not in the set: a line each."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def image(self, index: int) -> Tensor: ...

    def name(self, index: int) -> str:
        """What to call the image in a message."""
        return f"image {index}"

    def prepare(self, keys: BatchKeys) -> None:  # noqa: B027 - most sets have nothing to do
        """Called before a batch is made, in the process that makes it."""

    @abstractmethod
    def subset(self, indices: Tensor) -> "ImageSet":
        """The images at `indices` (int64), in that order."""

    def _check_labels(self, source: str) -> None:
        """Refuse labels that no class stands for: they would train a wrong network silently."""
        if len(self.labels) == 0:
            return
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.classes):
            wrong = low if low < 0 else high
            raise InputError(
                f"{source}: label {wrong} lies outside the {len(self.classes)} classes "
                f"(0 to {len(self.classes) - 1})"
            )


class TensorImages(ImageSet):
    """Images of one size in one uint8 tensor (N, C, H, W): a batch is one gather.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        classes: names in label order.
        source: for messages.
        skipped: of images that could not be read, a line each.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        classes: Sequence[str],
        *,
        source: str = "data",
        skipped: Sequence[str] = (),
    ) -> None:
        self.images = images
        self.labels = labels
        self.classes = classes
        self.source = source
        self.skipped = skipped
        self._check_labels(source)

    def image(self, index: int) -> Tensor:
        return self.images[index]

    def name(self, index: int) -> str:
        return f"image {index} of {self.source}"

    def subset(self, indices: Tensor) -> "TensorImages":
        return self._with(self.images[indices], self.labels[indices])

    def without_pixels(self) -> "TensorImages":
        """The same set with images of no channels, for batches whose pixels are elsewhere."""
        return self._with(self.images[:, :0], self.labels)

    def _with(self, images: Tensor, labels: Tensor) -> "TensorImages":
        return TensorImages(images, labels, self.classes, source=self.source, skipped=self.skipped)


class EncodedImages(ImageSet):
    """Images as the bytes of JPEG or other image files, decoded when asked for."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The bytes of one image.

        Raises:
            BrokenImageError: it is at fault; the message begins with its name.
            InputError: the storage is, or the set as a whole.
        """

    def image(self, index: int) -> Tensor:
        return decode_bytes(self.read(index), self.name(index))


class FileImages(EncodedImages):
    """Image files.

    Args:
        root: the folder that `files` are relative to.
        files: paths below `root`.
        labels: (N,) int64.
        classes: names in label order.
        source: for messages.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str] | PathBytes,
        labels: Tensor,
        classes: Sequence[str],
        *,
        source: str = "data",
    ) -> None:
        self.root = root
        # One array of bytes, because a list of 1.3 million paths costs every worker process
        # gigabytes: reading an element writes its reference count, which copies the page.
        # (pytorch/pytorch issue 13246)
        self.files = files if isinstance(files, np.ndarray) else pack_paths(files)
        self.labels = labels
        self.classes = classes
        self._check_labels(source)

    def path(self, index: int) -> Path:
        return self.root / os.fsdecode(self.files[index])

    def name(self, index: int) -> str:
        return str(self.path(index))

    def read(self, index: int) -> bytes:
        return read_file(self.path(index))

    def subset(self, indices: Tensor) -> "FileImages":
        files = self.files[indices.numpy()]
        return FileImages(self.root, files, self.labels[indices], self.classes)


def pack_paths(paths: Sequence[str]) -> PathBytes:
    """(N,) fixed-width bytes."""
    return np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)
