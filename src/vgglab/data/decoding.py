"""Image files to uint8 tensors: torchvision for JPEG (1.6 times as fast), Pillow for the others."""

import io
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode
from torchvision.transforms.v2 import functional

from vgglab.data.headers import JPEG, JpegHeader, jpeg_header, jpeg_scans, stored_size
from vgglab.errors import BrokenImageError, InputError

CpuDecoder = Literal["torchvision", "simplejpeg"]
Decoder = Literal[CpuDecoder, "cuda"]
"""Of JPEG. simplejpeg (the extra `turbo`) decodes large images at a reduced size, `cuda` on the
GPU; other formats, CMYK and what EXIF turns go the usual way with all three."""

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
)

# Against decompression bombs: some 2 GB while it is decoded. ImageNet's largest has 61 million.
MAX_PIXELS = 1 << 26
_MAX_BYTES = 1 << 30  # of a file; 16-bit RGBA pixels without compression have 0.7 GB
_MAX_SCANNED = 20 * MAX_PIXELS  # pixels times scans of a JPEG: seconds; encoders write 10 scans

# What `torchvision.io.decode_jpeg` calls. Since 0.29 that warns of its deprecation at every call:
# some 30 microseconds, as long as a CIFAR image takes. The third argument: upright, by EXIF.
_decode_jpeg = torch.ops.image.decode_jpeg
_RGB = ImageReadMode.RGB.value

# Pillow would try some 40 others, by programs of the system, too.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def decode(file: Path) -> Tensor:
    """One image file, see `decode_bytes`.

    Raises:
        BrokenImageError: the file is missing, empty, cut short, no image or larger than
            `MAX_PIXELS`.
        InputError: see `read_file`.
    """
    return decode_bytes(read_file(file), file)


def decode_bytes(data: bytes, name: str | Path) -> Tensor:
    """One image, upright (EXIF), without its alpha channel; of an animation the first frame.

    Grey, palette, CMYK and 16-bit images become 8-bit RGB.

    Args:
        data: the content of an image file.
        name: for messages.

    Returns:
        (3, height, width) uint8.

    Raises:
        BrokenImageError: the data are empty, cut short, no image or larger than `MAX_PIXELS`.
    """
    # Not PNG: torchvision 0.29 crashes the process on some damaged ones.
    if data.startswith(JPEG):
        checked_jpeg(data, name)
        try:
            return _decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), _RGB, True)
        except RuntimeError:
            pass  # Pillow reads some variants that torchvision refuses, and explains the others
    return _decode_with_pillow(data, name)


def read_file(file: Path) -> bytes:
    """The content of a file.

    Raises:
        BrokenImageError: it is missing, empty, larger than 1 GiB, or no file.
        InputError: its folder is gone, or its disk or server fails.
    """
    with _explained(file):
        _check_file(file)
        return file.read_bytes()


def image_size(file: Path) -> tuple[int, int]:
    """Height and width in pixels as stored, from the file's header alone.

    Raises:
        BrokenImageError: the file is missing, no image or larger than `MAX_PIXELS`.
        InputError: see `read_file`.
    """
    with _explained(file):
        _check_file(file)
        with file.open("rb") as stream:
            head = stream.read(1 << 16)
            size = stored_size(head)
            if size is None and head.startswith(JPEG):
                size = stored_size(head + stream.read())
            if size is None:
                with _open_image(stream, file) as image:
                    size = image.height, image.width
    return _checked_size(size, file)


def checked_jpeg(data: bytes, name: str | Path) -> JpegHeader:
    """The header of a JPEG that may be decoded.

    Raises:
        BrokenImageError: it cannot be read, or decoding would take too much memory or time.
    """
    header = jpeg_header(data)
    if header is None:
        raise BrokenImageError(f"{name}: unreadable image (a broken JPEG header)")
    height, width = _checked_size(header.size, name)
    most = _MAX_SCANNED // (height * width)
    if (scans := jpeg_scans(data, most)) > most:
        raise BrokenImageError(
            f"{name}: {scans:,} scans of {width:,} x {height:,} pixels: a trap, refused"
        )
    return header


@contextmanager
def _explained(name: str | Path) -> Iterator[None]:
    """Turn what the readers raise into one line that names the image."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        is_folder_there = isinstance(name, Path) and name.parent.is_dir()
        kind = BrokenImageError if is_folder_there else InputError
        raise kind(f"{name}: no such file") from error
    except UnidentifiedImageError as error:
        raise BrokenImageError(f"{name}: not an image") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BrokenImageError(
            f"{name}: more than {MAX_PIXELS:,} pixels; make it smaller"
        ) from error
    except Exception as error:  # Pillow's readers fed with noise raise anything
        # What the system says has a number; but for this one it is of the disk or the server.
        if isinstance(error, OSError) and error.errno and not isinstance(error, PermissionError):
            raise InputError(f"{name}: {error.strerror}") from error
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BrokenImageError(f"{name}: unreadable image ({reason})") from error


def _check_file(file: Path) -> None:
    """A pipe would be waited for, and a device may never end."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise BrokenImageError(f"{file}: not a file")
    if not 0 < status.st_size <= _MAX_BYTES:
        raise BrokenImageError(f"{file}: {'larger than 1 GiB' if status.st_size else 'empty file'}")


def _checked_size(size: tuple[int, int], name: str | Path) -> tuple[int, int]:
    height, width = size
    if not 0 < height * width <= MAX_PIXELS:
        shown = f"{width:,} x {height:,}"
        advice = "; make it smaller" if height * width else ""
        raise BrokenImageError(f"{name}: {shown} pixels; 1 to {MAX_PIXELS:,} are allowed{advice}")
    return size


@contextmanager
def _open_image(stream: IO[bytes], name: str | Path) -> Iterator[Image.Image]:
    """Of a size that is allowed, not yet decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(stream, formats=_FORMATS)
    with image:
        _checked_size((image.height, image.width), name)
        yield image


def _decode_with_pillow(data: bytes, name: str | Path) -> Tensor:
    if not data:
        raise BrokenImageError(f"{name}: empty file")
    with _explained(name), _open_image(io.BytesIO(data), name) as opened:
        image = ImageOps.exif_transpose(opened)
        # Pillow gives the 9 to 16 bits of a PGM as 32, already scaled to 16.
        if image.mode.startswith("I;16") or (opened.format, image.mode) == ("PPM", "I"):
            # Pillow's conversion to RGB would clip at 255.
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode in ("I", "F"):
            raise BrokenImageError(
                f"{name}: 32-bit pixels have no agreed range; store 8 or 16 bits"
            )
        return functional.pil_to_tensor(image.convert("RGB"))
