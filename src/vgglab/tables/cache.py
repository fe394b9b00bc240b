"""Soft-max outputs of finished passes on disk: shared by all tables, and by the next run."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from vgglab.data.images import EncodedImages, FileImages, ImageSet
from vgglab.errors import InputError
from vgglab.files import replace_file

_KEY = "posteriors"
# Of a row's sum from 1: of float32 sums over a thousand classes and 50 crops far below.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class PosteriorCache:
    """One safetensors file a pass, whole or absent; a damaged one counts as absent."""

    folder: Path

    def get(self, name: str, shape: tuple[int, int], compute: Callable[[], Tensor]) -> Tensor:
        """The posteriors of a pass, computed and kept unless they are there.

        Args:
            name: of everything that they depend on: a file name without its ending.
            shape: images and classes.
            compute: makes them, (images, classes) float32. A row of NaN is an image without.

        Raises:
            InputError: the folder cannot be written.
        """
        path = self.folder / f"{name}.safetensors"
        found = _read(path, shape)
        if found is not None:
            return found
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)  # before the pass, which may take hours
        computed = compute()
        with self._writing():
            replace_file(path, save({_KEY: computed}))
        return computed

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"cache={self.folder} cannot be written: {error}") from error


def images_digest(images: ImageSet) -> str:
    """SHA-256 of the labels, the classes and the images: of files their names and sizes in bytes,
    of others the content or the pixels."""
    digest = hashlib.sha256(repr((len(images), list(images.classes))).encode())
    digest.update(images.labels.numpy().tobytes())
    for index in range(len(images)):
        if isinstance(images, FileImages):
            size = images.path(index).stat().st_size
            digest.update(bytes(images.files[index]) + b"\0%d\0" % size)
        elif isinstance(images, EncodedImages):
            data = images.read(index)
            digest.update(b"%d\0" % len(data) + data)
        else:
            image = images.image(index)
            digest.update(repr(tuple(image.shape)).encode() + image.numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """None: there is no such file, or it was torn or damaged."""
    try:
        posteriors = load_file(path).get(_KEY)
    except (OSError, SafetensorError):
        return None
    if posteriors is None or posteriors.shape != shape or posteriors.dtype != torch.float32:
        return None
    # A file can have its length and lack its blocks after a power failure: they read as zeros.
    sums = posteriors.sum(1)
    return posteriors if bool((((sums - 1).abs() < _TOLERANCE) | sums.isnan()).all()) else None
