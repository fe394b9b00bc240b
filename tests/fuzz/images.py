"""Image formats in parts."""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from PIL import Image

from tests.fuzz.mutation import Form, Parts

PIXELS = np.stack(
    [np.add.outer(np.arange(11) * 9, np.arange(13) * s) for s in (1, 5, 17)], axis=-1
).astype(np.uint8)
_PNG = b"\x89PNG\r\n\x1a\n"


def _saved(form: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "words " * 10
    return exif


def _join(parts: Parts) -> bytes:
    return b"".join(parts)


def _cut_at(places: Callable[[bytes], Sequence[int]]) -> Callable[[bytes], Parts]:
    def split(data: bytes) -> Parts:
        at = sorted({0, *places(data), len(data)})
        return [data[start:end] for start, end in pairwise(at)]

    return split


def _png_parts(data: bytes) -> Parts:
    parts, at = [], len(_PNG)
    while at < len(data):
        length = struct.unpack_from(">I", data, at)[0]
        parts.append(data[at + 4 : at + 8 + length])
        at += 12 + length
    return parts


def _png_join(parts: Parts) -> bytes:
    chunks = (struct.pack(">I", len(p) - 4) + p + struct.pack(">I", zlib.crc32(p)) for p in parts)
    return _PNG + b"".join(chunks) if all(len(p) >= 4 for p in parts) else _PNG + b"".join(parts)


def _webp_parts(data: bytes) -> Parts:
    parts, at = [], 12
    while at < len(data):
        length = struct.unpack_from("<I", data, at + 4)[0]
        parts.append(data[at : at + 4] + data[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
    return parts


def webp(parts: Parts) -> bytes:
    """A file of chunks without their lengths."""
    chunks = [p[:4] + struct.pack("<I", len(p[4:])) + p[4:] + b"\0" * (len(p) % 2) for p in parts]
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _jpeg_markers(data: bytes) -> list[int]:
    return [i for i in range(len(data) - 1) if data[i] == 0xFF and data[i + 1] not in (0, 0xFF)]


def _tiff_entries(data: bytes) -> list[int]:
    order = "<" if data[:2] == b"II" else ">"
    start = struct.unpack_from(f"{order}I", data, 4)[0]
    count = struct.unpack_from(f"{order}H", data, start)[0]
    return [4, 8, start, *(start + 2 + 12 * i for i in range(count + 1))]


def _gif_blocks(data: bytes) -> list[int]:
    return [6, 13, *(i for i in range(13, len(data)) if data[i] in (0x21, 0x2C, 0x3B))]


def _exif_bomb(entries: int) -> bytes:
    """Tags that all point to the same bytes."""
    tags = (struct.pack("<HHII", 40000 + i, 1, 12 * entries, 8) for i in range(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", entries) + b"".join(tags) + bytes(4)


_BOMB = zlib.compress(bytes(1 << 22), 9)
_PNG_HOSTILE = [
    b"zTXtkey\0\0" + _BOMB,
    b"iCCPname\0\0" + _BOMB,
    b"iTXtkey\0\1\0\0\0" + _BOMB,
    b"eXIf" + _exif_bomb(2000),
    b"tEXtRaw profile type exif\0\nexif\n    8\n" + b"49492a00" * 20,
    b"acTL" + struct.pack(">II", 2**31 - 1, 0),
    b"fcTL" + struct.pack(">IIIIIHHBB", 0, 2**31 - 1, 2**31 - 1, 0, 0, 1, 1, 0, 0),
    b"IHDR" + struct.pack(">IIBBBBB", 9000, 9000, 16, 6, 0, 0, 1),
    b"IHDR" + struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0),
    b"IDAT" + _BOMB,
    b"PLTE",
    b"tRNS" + bytes(300),
]
_JPEG_HOSTILE = [
    b"\xff\xe1" + struct.pack(">H", 8 + 24002 + 10) + b"Exif\0\0" + _exif_bomb(2000),
    b"\xff\xe1\xff\xffExif\0\0II*\0\xff\xff\xff\x7f",
    b"\xff\xe1\0\x16Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03",
    b"\xff\xe2\0\x20MPF\0II*\0\x08\0\0\0\x01\0\x01\xb0\x04\0\x01\0\0\0\x09\0\0\0",
    b"\xff\xc0\0\x11\x08\xff\xdc\xff\xdc\x03\x01\x22\0\x02\x11\x01\x03\x11\x01",
    b"\xff\xc2\0\x11\x08\x23\0\x23\0\x03\x01\x44\0\x02\x11\x01\x03\x11\x01",
    b"\xff\xc9\0\x0b\x08\0\x0b\0\x0d\x01\x01\x11\0",
    b"\xff\xc3\0\x0b\x10\0\x0b\0\x0d\x01\x01\x11\0",
    b"\xff\xdd\0\x04\0\x01",
    b"\xff\xd0\xff\xd1\xff\x01",
    b"\xff\xdb\0\x43\0" + bytes(64),
    b"\xff\xc4\0\x15\0" + b"\xff" * 16 + b"\0\0",
    b"\xff\xdc\0\x04\xff\xff",
    b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x02",
]
_TIFF_TAGS = {
    256: (0, 2**31 - 1, 60_000),  # width
    257: (0, 2**31 - 1, 60_000),
    258: (0, 64, 1),  # bits a sample
    259: (2, 3, 4, 5, 6, 7, 8, 32773, 34712, 34925, 50000),  # compression
    262: (0, 2, 3, 5, 6, 8),  # photometric
    273: (0, 2**32 - 1),  # strip offsets
    277: (0, 5, 65535),  # samples a pixel
    278: (0, 2**32 - 1),  # rows a strip
    279: (0, 2**32 - 1),
    284: (2,),  # planes
    317: (2, 3),  # predictor
    322: (16, 2**30),  # tile width
    323: (16, 2**30),
    324: (8,),
    325: (2**31,),
    339: (2, 3, 4),  # sample format
    530: (0x00020002, 0),  # YCbCr subsampling
    700: (2**31,),
    34665: (8,),
}
_TIFF_HOSTILE = [
    struct.pack("<HHII", tag, kind, 1, value)
    for tag, values in _TIFF_TAGS.items()
    for value in values
    for kind in (4, 3)
] + [struct.pack("<HHII", 50000 + i, 1, 1 << (16 + i % 16), 8) for i in range(16)]
_WEBP_HOSTILE = [
    b"VP8X" + bytes((255, 0, 0, 0)) + b"\xff\xff\xff\xff\x3f\0",
    b"VP8X" + bytes((2, 0, 0, 0)) + b"\xff\x23\0\xff\x23\0",
    b"ANIM" + bytes(6),
    b"ANMF" + bytes(16),
    b"EXIF" + _exif_bomb(2000),
    b"VP8L\x2f\xff\xff\xff\x0f",
]
_GIF_HOSTILE = [
    b"\x2c\0\0\0\0\xff\xff\xff\xff\x00\x0c",
    b"\x21\xf9\x04\xff\xff\xff\xff\0",
    b"\x21\xfe" + (b"\xff" + b"c" * 255) * 20 + b"\0",
    b"\x21\xff\x0bNETSCAPE2.0\x03\x01\xff\xff\0",
]


def _seeds(split: Callable[[bytes], Parts], *files: bytes) -> list[Parts]:
    return [split(data) for data in files]


IMAGES = {
    "jpeg": Form(
        "a.jpg",
        _seeds(
            _cut_at(_jpeg_markers),
            _saved("JPEG"),
            _saved("JPEG", progressive=True, exif=_exif()),
            _saved("JPEG", "L", subsampling=0),
            _saved("JPEG", "CMYK", comment=b"words" * 20),
        ),
        _join,
        _JPEG_HOSTILE,
    ),
    "png": Form(
        "a.png",
        _seeds(
            _png_parts,
            _saved("PNG"),
            _saved("PNG", "P", exif=_exif()),
            _saved("PNG", "RGBA"),
            _saved("PNG", "1"),
            _saved("PNG", "I;16"),
            _saved("PNG", save_all=True, append_images=[Image.fromarray(PIXELS).rotate(90)]),
        ),
        _png_join,
        _PNG_HOSTILE,
    ),
    "gif": Form(
        "a.gif",
        _seeds(
            _cut_at(_gif_blocks),
            _saved("GIF"),
            _saved("GIF", save_all=True, append_images=[Image.fromarray(PIXELS).rotate(90)]),
        ),
        _join,
        _GIF_HOSTILE,
    ),
    "webp": Form(
        "a.webp",
        _seeds(
            _webp_parts,
            _saved("WEBP"),
            _saved("WEBP", "RGBA", lossless=True, exif=_exif()),
            _saved("WEBP", save_all=True, append_images=[Image.fromarray(PIXELS).rotate(90)]),
        ),
        webp,
        _WEBP_HOSTILE,
    ),
    "bmp": Form(
        "a.bmp",
        _seeds(
            _cut_at(lambda data: [*range(2, 54, 4), 54]),
            *(_saved("BMP", mode) for mode in ("RGB", "P", "1", "RGBA")),
        ),
        _join,
    ),
    "tiff": Form(
        "a.tif",
        _seeds(
            _cut_at(_tiff_entries),
            *(
                _saved("TIFF", compression=c)
                for c in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd")
            ),
            _saved("TIFF", "1", compression="group4"),
            _saved("TIFF", "I;16", exif=_exif()),
            _saved("TIFF", "CMYK", big_tiff=False),
        ),
        _join,
        _TIFF_HOSTILE,
    ),
    "ppm": Form(
        "a.ppm",
        [
            *_seeds(
                _cut_at(lambda data: [3, 6, 9, 13]),
                *(_saved("PPM", mode) for mode in ("RGB", "L", "1")),
            ),
            [b"P3\n", b"2 ", b"2\n", b"255\n", *[b"17 "] * 12],
            [b"P1\n", b"4 ", b"2\n", b"0 1 0 1 ", b"#words\n", b"1010"],
            [b"P2\n", b"3 ", b"1\n", b"200\n", b"0 ", b"200 ", b"9 "],
        ],
        _join,
        [
            b"9000 9000\n",
            b"65535 ",
            b"#" + b"c" * 5000,
            b"99999999999999999999 ",
            b"P6\n9400 9400\n255\n",
            b"Pf\n2 1\n-1.0\n",
        ],
    ),
}  # fmt: skip
