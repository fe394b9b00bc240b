"""Archives onto the disk: bounded, and nothing leaves the folder."""

import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from gzip import GzipFile
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from vgglab.errors import InputError

_BLOCK = 1 << 18
_GZIP = b"\x1f\x8b"
_MAX_HEADER = 1 << 13  # bytes of all headers of one member; most have one of 512
_MAX_DEPTH = 16  # folders in a name


class _Bounded:
    """A stream that tarfile reads as a file, but not past a fence."""

    def __init__(self, stream: IO[bytes], name: str, max_bytes: int, max_members: int) -> None:
        self.stream = stream
        self.name = name
        self.fence = self.max_bytes = max_bytes
        self.members_left = max_members

    def read(self, size: int) -> bytes:
        if size < 0:
            raise tarfile.ReadError("a negative size")
        # One byte more than allowed, because tarfile asks for whole blocks at the end, too.
        data = self._call(self.stream.read, min(size, self.fence - self.tell() + 1))
        self.check(self.tell())
        return data

    def seek(self, position: int) -> None:
        self.check(position)
        self._call(self.stream.seek, position)

    def tell(self) -> int:
        return self.stream.tell()

    def seekable(self) -> bool:
        return True

    def check(self, position: int) -> None:
        if position > self.fence:
            what = f"more than {self.max_bytes:,} bytes"
            if self.fence < self.max_bytes:
                what = f"a member's header of more than {_MAX_HEADER:,} bytes"
            raise InputError(f"{self.name}: {what}: refused")

    @staticmethod
    def _call(function: Callable[[int], Any], argument: int) -> Any:
        try:
            return function(argument)
        except (OSError, EOFError, zlib.error) as error:
            raise tarfile.ReadError(str(error)) from error


class _Member(tarfile.TarInfo):
    """Bounds what tarfile believes: names and maps of any length, chains of headers, negative sizes
    (CVE-2025-8194, an endless loop), pax headers that cost quadratic time (CVE-2024-6232)."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "_Member":
        """The next member. Raises InputError, or a TarError where it is broken or sparse."""
        stream = tar.fileobj
        assert isinstance(stream, _Bounded)
        outer = stream.fence  # tarfile calls this again for the header that follows an extension
        stream.fence = min(outer, tar.offset + _MAX_HEADER)
        try:
            member = super().fromtarfile(tar)
        except (ValueError, tarfile.HeaderError) as error:
            if str(error) in ("empty header", "end of file header"):
                raise
            # To tarfile any other broken header is the end, too, and what is behind it is lost.
            raise tarfile.ReadError(f"a broken header: {error}") from error
        finally:
            stream.fence = outer
        if member.size < 0 or member.sparse is not None:
            raise tarfile.ReadError(f"member {member.name!r} is sparse or has a negative size")
        if outer == stream.max_bytes:  # not the header that follows an extension
            stream.check(member.offset_data + member.size)
            stream.members_left -= 1
        if stream.members_left < 0:
            raise InputError(f"{stream.name}: too many members: refused")
        return member


@contextmanager
def open_tar(
    archive: Path | IO[bytes], *, max_bytes: int, max_members: int, name: str | None = None
) -> Iterator[tarfile.TarFile]:
    """A tar archive to read; one on the disk may be compressed by gzip.

    Args:
        archive: the file, or a member of another archive.
        max_bytes: of the archive when unpacked; more is refused.
        max_members: likewise.
        name: for messages about one inside another.

    Raises:
        InputError: it is missing, broken, cut short or too large, also when that shows later, while
            reading.
    """
    shown = name or str(archive)
    with ExitStack() as stack:
        stream = _open(archive, stack) if isinstance(archive, Path) else archive
        bounded = _Bounded(stream, shown, max_bytes, max_members)
        try:
            with tarfile.open(
                fileobj=cast("IO[bytes]", bounded), mode="r:", tarinfo=_Member
            ) as tar:
                yield tar
            while bounded.read(_BLOCK):
                pass  # a gzip's checksum stands at the very end, where tarfile does not go
        except tarfile.TarError as error:
            raise InputError(f"{shown}: broken or incomplete archive ({error})") from error


def _open(archive: Path, stack: ExitStack) -> IO[bytes]:
    if not archive.is_file():
        raise InputError(f"{archive}: no such file")
    try:
        file = stack.enter_context(archive.open("rb"))
        compressed = file.read(2) == _GZIP
        file.seek(0)
    except OSError as error:
        raise InputError(f"cannot read {archive}: {error.strerror or error}") from error
    return cast("IO[bytes]", stack.enter_context(GzipFile(fileobj=file))) if compressed else file


def check_member(member: tarfile.TarInfo, archive: str) -> None:
    """Refuse what is no plain file or folder below the target. Stricter than tarfile's data filter,
    which lets links stay and makes absolute paths relative.

    Raises:
        InputError: names the archive and the member.
    """
    path = PurePosixPath(member.name)
    if not (member.isfile() or member.isdir()):
        raise InputError(f"{archive}: member {member.name!r} is a link or a device: refused")
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"{archive}: member {member.name!r} would leave the folder: refused")
    too_long = len(path.parts) > _MAX_DEPTH or any(len(os.fsencode(p)) > 255 for p in path.parts)
    if too_long or not member.name.isprintable():
        shown = f"{member.name[:80]!r}"
        raise InputError(f"{archive}: member {shown} has a name that no data set uses: refused")


def extract(
    tar: tarfile.TarFile,
    folder: Path,
    *,
    archive: str,
    advance: Callable[[int], None] = lambda files: None,
) -> int:
    """Unpack plain files and folders into `folder`.

    Args:
        tar: as given by `open_tar`.
        folder: is made.
        archive: its name, for messages.
        advance: told of each file.

    Returns:
        The number of files.

    Raises:
        InputError: a member is refused. Earlier members stay in `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: set[str] = set()
    for member in tar:
        check_member(member, archive)
        # Some file systems do not tell upper case from lower.
        path = PurePosixPath(member.name.casefold())
        if not files.isdisjoint(map(str, (path, *path.parents))):
            raise InputError(f"{archive}: member {member.name!r} replaces another: refused")
        try:
            tar.extract(member, folder, filter=_without_time)
        except tarfile.FilterError as error:
            raise InputError(f"{archive}: member {member.name!r} refused: {error}") from error
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"{archive}: cannot write member {member.name!r} to {folder}: {reason}"
            ) from error
        if member.isfile():
            files.add(str(path))
            advance(1)
    return len(files)


def _without_time(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """The data filter, and not the archive's time, which may be none that a file can have."""
    return tarfile.data_filter(member, folder).replace(mtime=None, deep=False)  # type: ignore[arg-type]


def read_member(tar: tarfile.TarFile, name: str, archive: str) -> bytes:
    """The bytes of one plain file of an archive.

    Raises:
        InputError: it is not there or no plain file.
    """
    try:
        member = tar.getmember(name)
    except KeyError as error:
        raise InputError(f"{archive}: no file {name!r} in it") from error
    check_member(member, archive)
    stream = tar.extractfile(member)
    if stream is None:
        raise InputError(f"{archive}: {name!r} is a folder, not a file")
    return stream.read()
