"""Archives from the network and onto the disk: mirrors, resume, checksums, no escapes."""

import hashlib
import logging
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from gzip import BadGzipFile, GzipFile
from http.client import HTTPException, HTTPResponse
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from filelock import FileLock

from vgglab.data.progress import progress
from vgglab.errors import InputError

log = logging.getLogger(__name__)

_TIMEOUT = 30.0  # seconds without a byte before a mirror counts as dead
_BLOCK = 1 << 18


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
        target.unlink()
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
    tried = ", ".join(f"{url} ({why})" for url, why in failures.items()) or "no mirrors given"
    raise InputError(
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
    if not url.startswith(("http://", "https://")):
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


@contextmanager
def open_tar(archive: Path | IO[bytes], name: str | None = None) -> Iterator[tarfile.TarFile]:
    """A tar archive (also gz, bz2, xz) to read. `name` is for messages about one inside another.

    Raises:
        InputError: it is missing, broken or cut short, also when that shows later, while reading.
    """
    shown = name or str(archive)
    if isinstance(archive, Path) and not archive.is_file():
        raise InputError(f"{shown}: no such file")
    try:
        if isinstance(archive, Path):
            with tarfile.open(archive) as tar:
                yield tar
                if isinstance(tar.fileobj, GzipFile):
                    # Its checksum stands at the very end, where tarfile does not go by itself.
                    while tar.fileobj.read(_BLOCK):
                        pass
        else:
            with tarfile.open(fileobj=archive) as tar:
                yield tar
    except (tarfile.TarError, BadGzipFile, EOFError, zlib.error, LZMAError) as error:
        raise InputError(f"{shown}: broken or incomplete archive ({error})") from error


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


def extract(
    tar: tarfile.TarFile,
    folder: Path,
    *,
    archive: str,
    max_bytes: int,
    max_members: int,
    advance: Callable[[int], None] = lambda files: None,
) -> int:
    """Unpack plain files and folders into `folder`.

    Args:
        tar: as given by `open_tar`.
        folder: is made.
        archive: its name, for messages.
        max_bytes: of all unpacked files together; more is refused.
        max_members: likewise.
        advance: told of each file.

    Returns:
        The number of files.

    Raises:
        InputError: a member is refused, or there is too much. Earlier members stay in `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = size = 0
    for count, member in enumerate(tar, 1):
        check_member(member, archive)
        size += member.size
        if size > max_bytes or count > max_members:
            raise InputError(
                f"{archive}: more than {max_bytes:,} bytes or {max_members:,} members: refused"
            )
        try:
            tar.extract(member, folder, filter="data")
        except tarfile.FilterError as error:
            raise InputError(f"{archive}: member {member.name!r} refused: {error}") from error
        except BadGzipFile:
            raise
        except OSError as error:
            raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
        files += member.isfile()
        advance(int(member.isfile()))
    return files


def read_member(tar: tarfile.TarFile, name: str, archive: str) -> bytes:
    """The bytes of one plain file of an archive.

    Raises:
        InputError: it is not there or no plain file.
    """
    try:
        stream = tar.extractfile(name)
    except KeyError:
        stream = None
    if stream is None:
        raise InputError(f"{archive}: no file {name!r} in it")
    return stream.read()
