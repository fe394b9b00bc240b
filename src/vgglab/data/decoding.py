"""Image files to uint8 tensors: torchvision for JPEG (1.6 times as fast), Pillow for the others."""

import io
import re
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional

from vgglab.errors import InputError

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
)

# Against decompression bombs: some 2 GB while it is decoded. ImageNet's largest has 61 million.
MAX_PIXELS = 1 << 26
_MAX_BYTES = 1 << 30  # of a file; 16-bit RGBA pixels without compression have 0.7 GB
_MAX_SCANNED = 20 * MAX_PIXELS  # pixels times scans of a JPEG: seconds; encoders write 10 scans

# Pillow would try some 40 others, by programs of the system, too.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
# With the only lengths that libjpeg takes, so that bytes behind the image (a motion photo's film)
# hardly ever look like one.
_SCAN = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")


def decode(file: Path) -> Tensor:
    """One image, upright (EXIF), without its alpha channel; of an animation the first frame.

    Grey, palette, CMYK and 16-bit images become 8-bit RGB.

    Returns:
        (3, height, width) uint8.

    Raises:
        InputError: the file is missing, empty, cut short, no image or larger than `MAX_PIXELS`.
    """
    data = _read(file)
    # Not PNG: torchvision 0.29 crashes the process on some damaged ones.
    if data.startswith(_JPEG):
        _check_jpeg(file, data)
        try:
            return decode_jpeg(
                torch.frombuffer(bytearray(data), dtype=torch.uint8),
                mode=ImageReadMode.RGB,
                apply_exif_orientation=True,
            )
        except RuntimeError:
            pass  # Pillow reads some variants that torchvision refuses, and explains the others
    return _decode_with_pillow(file, data)


def image_size(file: Path) -> tuple[int, int]:
    """Height and width in pixels as stored, from the file's header alone.

    Raises:
        InputError: the file is missing, no image or larger than `MAX_PIXELS`.
    """
    with _explained(file):
        _check_file(file)
        with file.open("rb") as stream:
            head = stream.read(1 << 16)
            size = _header_size(head)
            if size is None and head.startswith(_JPEG):
                size = _header_size(head + stream.read())
            if size is None:
                with _opened(file, stream) as image:
                    size = image.height, image.width
    return _checked_size(file, size)


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Turn what the readers raise into one line that names the file."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{file}: not an image") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(f"{file}: more than {MAX_PIXELS:,} pixels; make it smaller") from error
    except Exception as error:  # Pillow's readers fed with noise raise anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{file}: unreadable image ({reason})") from error


def _check_file(file: Path) -> None:
    """A pipe would be waited for, and a device may never end."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{file}: not a file")
    if not 0 < status.st_size <= _MAX_BYTES:
        raise InputError(f"{file}: {'larger than 1 GiB' if status.st_size else 'empty file'}")


def _read(file: Path) -> bytes:
    with _explained(file):
        _check_file(file)
        return file.read_bytes()


def _checked_size(file: Path, size: tuple[int, int]) -> tuple[int, int]:
    height, width = size
    if not 0 < height * width <= MAX_PIXELS:
        shown = f"{width:,} x {height:,}"
        advice = "; make it smaller" if height * width else ""
        raise InputError(f"{file}: {shown} pixels; 1 to {MAX_PIXELS:,} are allowed{advice}")
    return size


def _check_jpeg(file: Path, data: bytes) -> None:
    size = _header_size(data)
    if size is None:
        raise InputError(f"{file}: unreadable image (a broken JPEG header)")
    height, width = _checked_size(file, size)
    if (scans := len(_SCAN.findall(data))) * height * width > _MAX_SCANNED:
        raise InputError(
            f"{file}: {scans:,} scans of {width:,} x {height:,} pixels: a trap, refused"
        )


def _header_size(data: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG or PNG. None: another kind, or the header is not in `data`.

    Ten times as fast as opening the image with Pillow, which matters for 60,000 tiny files.
    """
    try:
        if data.startswith(_PNG) and data[12:16] == b"IHDR":
            width, height = struct.unpack_from(">II", data, 16)
            return height, width
        if data.startswith(_JPEG):
            return _jpeg_size(data)
    except (struct.error, IndexError):
        pass
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """As libjpeg finds it: another way to the first frame header would let a bomb pass."""
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # they stand alone
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


@contextmanager
def _opened(file: Path, stream: IO[bytes]) -> Iterator[Image.Image]:
    """Of a size that is allowed, not yet decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(stream, formats=_FORMATS)
    with image:
        _checked_size(file, (image.height, image.width))
        yield image


def _decode_with_pillow(file: Path, data: bytes) -> Tensor:
    with _explained(file), _opened(file, io.BytesIO(data)) as opened:
        image = ImageOps.exif_transpose(opened)
        # Pillow gives the 9 to 16 bits of a PGM as 32, already scaled to 16.
        if image.mode.startswith("I;16") or (opened.format, image.mode) == ("PPM", "I"):
            # Pillow's conversion to RGB would clip at 255.
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode in ("I", "F"):
            raise InputError(f"{file}: 32-bit pixels have no agreed range; store 8 or 16 bits")
        return functional.pil_to_tensor(image.convert("RGB"))
