"""Tar archives in blocks."""

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable

from tests.fuzz.mutation import Form, Parts

_BLOCK = 512
_ZEROS = gzip.compress(bytes(1 << 24), mtime=0)


def _member(
    name: str, data: bytes = b"data", kind: bytes = tarfile.REGTYPE, **fields: object
) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    return member, data


def _tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, bufsize=_BLOCK) as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue().rstrip(b"\0").ljust(_BLOCK, b"\0")


def _blocks(data: bytes) -> Parts:
    return [data[at : at + _BLOCK].ljust(_BLOCK, b"\0") for at in range(0, len(data), _BLOCK)]


def _plain(parts: Parts) -> bytes:
    return b"".join(map(_checked, parts)) + bytes(2 * _BLOCK)


def _checked(block: bytes) -> bytes:
    """A block that looks like a header gets a right checksum."""
    if len(block) < 265 or block[257:262] != b"ustar":
        return block
    block = block[:_BLOCK].ljust(_BLOCK, b"\0")
    total = 256 + sum(block[:148]) + sum(block[156:])
    return block[:148] + b"%06o\0 " % total + block[156:]


def header(name: str, kind: bytes, size: int, data: bytes = b"") -> bytes:
    """A header that may claim another size than its data has."""
    member, _ = _member(name, b"", kind)
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT)[:_BLOCK])
    # In base 256, as GNU tar writes what octal digits cannot; the first bit says so.
    block[124:136] = size.to_bytes(12, "big", signed=True)
    block[124] |= 0x80
    return _checked(bytes(block)) + b"".join(_blocks(data))


def pax(**records: object) -> bytes:
    """An extended header; `__` in a key stands for a dot."""
    text = b""
    for key, value in records.items():
        record = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(record)
        while length != len(record) + len(str(length)):
            length = len(record) + len(str(length))
        text += str(length).encode() + record
    return header("pax", tarfile.XHDTYPE, len(text), text)


_FILE = header("f", tarfile.REGTYPE, 4, b"data")
_HOSTILE = [
    *(header(name, tarfile.REGTYPE, 4, b"evil") for name in (
        "../escaped", "a/../../escaped", "/tmp/escaped", "..", ".", "", "a//b", "a/b/c/d/e/f/g/h",
        "A", "a", "x" * 99, "a\nb", "a\0b", "C:\\x", "//x", "\x7f", "d",
    )),
    *(header("special", kind, 0) for kind in (
        tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
        tarfile.CONTTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE, b"Z",
    )),
    *(header("f", tarfile.REGTYPE, size) for size in (-512, -1024, 2**33, 2**62, 2**90, 1 << 20)),
    *(header("f", kind, size) for size in (-1, 2**33, 2**62, 5000) for kind in (
        tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
    )),
    header("long", tarfile.GNUTYPE_LONGNAME, 300, b"y" * 300) + _FILE,
    header("long", tarfile.GNUTYPE_LONGNAME, 4000, b"y/" * 2000) + _FILE,
    header("long", tarfile.GNUTYPE_LONGNAME, 20, b"../../escaped\0\0\0\0\0\0\0") + _FILE,
    *(pax(**records) + _FILE for records in (
        {"size": -1024}, {"size": 2**40}, {"size": "x"}, {"size": 0}, {"path": "../escaped"},
        {"path": "/tmp/escaped"}, {"path": "a\0b"}, {"path": "z" * 5000}, {"mtime": "nan"},
        {"mtime": "1e300"}, {"uid": -1}, {"hdrcharset": "BINARY", "path": "\u00ff"},
        {"hdrcharset": "BINARY"}, {"GNU__sparse__size": 2**40}, {"GNU__sparse__map": "0,5,9"},
        {"GNU__sparse__major": 1, "GNU__sparse__minor": 0, "GNU__sparse__realsize": 2**40},
        {"GNU__sparse__name": "../escaped"}, {"linkpath": "/etc/passwd"}, {"comment": "1" * 4000},
    )),
    header("pax", tarfile.XHDTYPE, 4000, b"1" * 4000) + _FILE,
    pax(path="deep") * 200 + _FILE,
    bytes(_BLOCK),
]  # fmt: skip

_SEEDS = [
    _blocks(_tar(_member("d", b"", tarfile.DIRTYPE), _member("d/x"), _member("y", b"why" * 400))),
    _blocks(_tar(_member("n" * 150), _member("m"), form=tarfile.GNU_FORMAT)),
    _blocks(_tar(_member("n" * 150, mtime=1.5), _member("\u00fc"), form=tarfile.PAX_FORMAT)),
    _blocks(_tar(*(_member(f"d/{i}", bytes(600)) for i in range(5)), form=tarfile.USTAR_FORMAT)),
]


def _other(data: bytes) -> Callable[[bytes], bytes]:
    return bz2.compress if zlib.crc32(data) % 2 else lzma.compress


def _form(name: str, compress: Callable[[bytes], bytes]) -> Form:
    return Form(name, _SEEDS, lambda parts: compress(_plain(parts)), _HOSTILE)


ARCHIVES = {
    "tar": _form("a.tar", bytes),
    "tar.gz": _form("a.tar.gz", lambda data: gzip.compress(data, 6, mtime=0)),
    # A second stream behind the archive's end, and a bomb there.
    "tar.gz and more": _form("a.tgz", lambda data: gzip.compress(data, 6, mtime=0) + _ZEROS),
    "tar.bz2 or tar.xz": _form("a.tar.xz", lambda data: _other(data)(data)),
}
