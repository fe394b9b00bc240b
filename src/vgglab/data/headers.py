"""What the headers of JPEG and PNG files say, read without a decoder.

Ten times as fast as opening the image with Pillow, which matters for 60,000 tiny files, and exact
where safety depends on it: libjpeg's own way to the size.
"""

import re
import struct
from typing import NamedTuple

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
_EXIF = b"Exif\0\0"
_ORIENTATION = 0x0112
# With the only lengths that libjpeg takes, so that bytes behind the image (a motion photo's film)
# hardly ever look like one.
_SCAN = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")


class JpegHeader(NamedTuple):
    """What is known of a JPEG before it is decoded."""

    height: int
    """As stored, pixels."""
    width: int
    components: int
    """1: grey, 3: colour, 4: CMYK."""
    orientation: int
    """EXIF's, 1 to 8; 1: upright; 0: there is an EXIF entry that cannot be read."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as stored."""
        return self.height, self.width

    @property
    def is_plain(self) -> bool:
        """Whether any JPEG decoder gives the same picture: grey or colour, and upright."""
        return self.components in (1, 3) and self.orientation == 1


def stored_size(data: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG or PNG. None: another kind, or the header is not in `data`."""
    if data.startswith(PNG) and data[12:16] == b"IHDR" and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return height, width
    header = jpeg_header(data)
    return None if header is None else header.size


def jpeg_header(data: bytes) -> JpegHeader | None:
    """The header of a JPEG. None: no JPEG, or its header is not in `data`.

    As libjpeg finds it: another way to the first frame header would let a bomb pass.
    """
    if not data.startswith(JPEG):
        return None
    orientation = 1
    at = 2
    try:
        while data[at] == 0xFF:
            marker = data[at + 1]
            if marker == 0xFF:  # fill byte
                at += 1
            elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # they stand alone
                at += 2
            elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
                height, width, components = struct.unpack_from(">HHB", data, at + 5)
                return JpegHeader(height, width, components, orientation)
            else:
                if marker == 0xE1 and data[at + 4 : at + 10] == _EXIF and orientation == 1:
                    orientation = _orientation(data, at + 10)
                at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    except (struct.error, IndexError):
        pass
    return None


def _orientation(data: bytes, start: int) -> int:
    """EXIF's orientation in the TIFF structure that begins at `start`. 1: none given."""
    order = {b"II": "<", b"MM": ">"}.get(data[start : start + 2])
    if order is None:
        return 0
    try:
        directory = start + struct.unpack_from(f"{order}I", data, start + 4)[0]
        (entries,) = struct.unpack_from(f"{order}H", data, directory)
        for at in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", data, at)
            if tag == _ORIENTATION:
                return int(value) if 1 <= value <= 8 else 0
    except struct.error:
        return 0
    return 1


def jpeg_scans(data: bytes, most: int) -> int:
    """How many times a JPEG goes over its pixels, if that can be more than `most` times; else 0."""
    # Counting single bytes is ten times as fast, and enough for what is no trap.
    return len(_SCAN.findall(data)) if data.count(0xDA) > most else 0


def is_complete(data: bytes) -> bool:
    """Whether the last scan of a JPEG has an end; a film may follow it.

    A preview in the EXIF entry has an end too, but lies before the scan.
    """
    return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
