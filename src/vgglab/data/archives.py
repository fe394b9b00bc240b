"""Archives from the network and onto the disk: mirrors, resume, checksums, no escapes."""

import hashlib
import logging
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from gzip import GzipFile
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from filelock import FileLock

from vgglab.data.progress import progress
from vgglab.errors import InputError

log = logging.getLogger(__name__)

_TIMEOUT = 30.0  # seconds without a byte before a mirror counts as dead
_BLOCK = 1 << 18
_GZIP = b"\x1f\x8b"
_MAX_HEADER = 1 << 13  # bytes of all headers of one member; most have one of 512
_MAX_DEPTH = 16  # folders in a name


def download(urls: Sequence[str], target: Path, *, checksum: str, size: int | None = None) -> None:
    """Fetch `target` from the first mirror that has it whole; keep it if it is there and right.

    What arrives waits in `target.part` and is resumed by the next try, the next mirror or the next
    run. The name `target` stands for checked bytes only. Processes that share the folder wait for
    each other.

    Args:
        urls: http(s) addresses of the same bytes, tried in order.
        target: the file to make.
        checksum: `sha256:HEX` or `md5:HEX`.
        size: bytes, where known; a mirror that offers another size is refused at once.

    Raises:
        InputError: no mirror gave the right bytes, or the folder cannot be written.
    """
    if target.exists() and _matches(target, checksum):
        return  # also from a disk that cannot be written
    if not any(_is_web_address(url) for url in urls):  # before anything is made
        raise _no_mirror(target, dict.fromkeys(urls, "not an http(s) address"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            _download(urls, target, checksum, size)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error


def _download(urls: Sequence[str], target: Path, checksum: str, size: int | None) -> None:
    if target.exists():
        if _matches(target, checksum):
            return
        log.warning("%s is incomplete or damaged (wrong checksum): fetching it again", target)
    part = target.with_name(target.name + ".part")
    failures: dict[str, str] = {}
    for url in [*urls, *urls]:  # a second round, for what a mirror lost or spoilt on the way
        try:
            _fetch(url, part, size)
        except (OSError, HTTPException) as error:
            failures[url] = _reason(error)
            log.warning("%s: %s", url, failures[url])
            continue
        if _matches(part, checksum):
            os.replace(part, target)
            return
        failures[url] = "wrong checksum"
        log.warning("%s: wrong checksum, what it gave is deleted", url)
        part.unlink()
    raise _no_mirror(target, failures)


def _is_web_address(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _no_mirror(target: Path, failures: Mapping[str, str]) -> InputError:
    tried = ", ".join(f"{url} ({why})" for url, why in failures.items()) or "no mirrors given"
    return InputError(
        f"cannot download {target.name}: {tried}; "
        f"put the file into {target.parent.resolve()} by hand, or name other data.mirrors"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, URLError):
        return str(error.reason)
    return str(error) or type(error).__name__


def _matches(file: Path, checksum: str) -> bool:
    algorithm, _, digest = checksum.partition(":")
    state = hashlib.new(algorithm, usedforsecurity=False)
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            state.update(block)
    return state.hexdigest() == digest.lower()


def _fetch(url: str, part: Path, size: int | None) -> None:
    """Append the rest of the file to `part`, reconnecting as long as bytes arrive."""
    if not _is_web_address(url):
        raise OSError("not an http(s) address")
    while True:
        start = part.stat().st_size if part.exists() else 0
        try:
            _fetch_once(url, part, start, size)
        except (OSError, HTTPException):
            if not part.exists() or part.stat().st_size <= start:
                raise
        else:
            return


def _fetch_once(url: str, part: Path, start: int, size: int | None) -> None:
    request = Request(url, headers={"User-Agent": "vgglab"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response: HTTPResponse = urlopen(request, timeout=_TIMEOUT)
    except HTTPError as error:
        error.close()
        if start and error.code == 416:  # nothing after `start`: the checksum decides
            part.touch()
            return
        raise
    with response:
        if not _continues_at(response, start):
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else size
        if size is not None and total != size:
            raise OSError(f"offers {total:,} bytes instead of {size:,}")
        with (
            part.open("ab" if start else "wb") as file,
            progress(part.stem, total, done=start) as advance,
        ):
            while block := response.read(_BLOCK):
                file.write(block)
                advance(len(block))
    if total is not None and part.stat().st_size < total:
        raise OSError(f"connection closed after {part.stat().st_size:,} of {total:,} bytes")


def _continues_at(response: HTTPResponse, start: int) -> bool:
    """Whether the server honours the range: many ignore it and send the whole file."""
    content_range = response.headers.get("Content-Range", "")
    return response.status == 206 and content_range.startswith(f"bytes {start}-")


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
        stream.check(member.offset_data + member.size)
        stream.members_left -= outer == stream.max_bytes
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
