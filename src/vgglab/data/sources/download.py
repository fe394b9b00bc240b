"""Files from the network: mirrors, resume, checksums."""

import logging
import os
from collections.abc import Mapping, Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from filelock import FileLock

from vgglab.errors import InputError
from vgglab.files import digest
from vgglab.progress import progress

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
        size: bytes, where known; a mirror that offers another size is refused at once, one that
            sends more when it does.

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
    algorithm, _, expected = checksum.partition(":")
    with progress(f"check {file.name}", file.stat().st_size, unit="bytes") as advance:
        return digest(file, algorithm, advance) == expected.lower()


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
            progress(part.stem, total, done=start, unit="bytes") as advance,
        ):
            while block := response.read(_BLOCK):
                if size is not None and file.tell() + len(block) > size:
                    raise OSError(f"sends more than {size:,} bytes")
                file.write(block)
                advance(len(block))
    if total is not None and part.stat().st_size < total:
        raise OSError(f"connection closed after {part.stat().st_size:,} of {total:,} bytes")


def _continues_at(response: HTTPResponse, start: int) -> bool:
    """Whether the server honours the range: many ignore it and send the whole file."""
    content_range = response.headers.get("Content-Range", "")
    return response.status == 206 and content_range.startswith(f"bytes {start}-")
