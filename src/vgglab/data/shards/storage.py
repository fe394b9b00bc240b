"""Files of a folder or of object storage, fetched with patience."""

import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from vgglab.data.shards.storage_errors import MissingFileError, ask_until, gave_up, reason_of
from vgglab.errors import InputError
from vgglab.text import duration

log = logging.getLogger(__name__)

UNFINISHED = ".part"
"""The ending of a file that is being fetched."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0  # seconds between attempts; it doubles
_MISSING_SECONDS = 60.0  # how long to wait for a file that should be there
_ATTEMPTS = 3  # of boto3 by itself, within seconds, for the odd error of a busy server
_MOST = 1 << 26  # bytes of a JSON file: an index of 800,000 chunks


class Storage:
    """One folder of files, on a disk or in a bucket.

    A server that does not answer is asked again, with growing pauses. One process of a node says so
    in one line, and in another when it is back.

    Args:
        uri: a local folder, `s3://bucket/folder` or `gs://bucket/folder`.
        endpoint: address of an S3-compatible server. None: the provider's own.
        anonymous: ask without credentials, for public buckets.
        retry_seconds: how long to wait for a server that does not answer.
        notices: a file that says by its lock which process of the node speaks.

    Raises:
        InputError: the URI is of another kind.
    """

    def __init__(
        self,
        uri: str,
        *,
        endpoint: str | None = None,
        anonymous: bool = False,
        retry_seconds: float = 0.0,
        notices: Path | None = None,
    ) -> None:
        remote = re.match("([A-Za-z0-9]{2,}):/", uri)  # Windows' drives have one letter
        if remote and not re.match("(s3|gs)://[^/]", uri):
            raise InputError(
                f"data.uri={uri}: a local folder, s3://bucket/folder or gs://bucket/folder is "
                "expected"
            )
        scheme = remote[1] if remote else ""
        if endpoint is not None and not endpoint.startswith(("http://", "https://")):
            raise InputError(f"data.endpoint={endpoint}: http:// or https:// comes first")
        self.uri = uri.rstrip("/") if scheme else str(Path(uri).expanduser())
        self.scheme = scheme
        self.retry_seconds = retry_seconds
        self._endpoint = endpoint
        self._anonymous = anonymous
        self._notices = notices
        self._downloader: tuple[int, Any] | None = None

    @property
    def folder(self) -> Path | None:
        """Where the files are, if they are on a disk."""
        return None if self.scheme else Path(self.uri)

    def read(self, name: str, most: int = _MOST) -> bytes:
        """The content of one file.

        Args:
            name: of the file.
            most: bytes; a larger file is refused, as it would take the memory.

        Raises:
            MissingFileError: it is not there, or may not be seen.
            InputError: it cannot be read, for another reason.
        """
        if self.folder is None:
            buffer = BytesIO()
            self._fetch(name, buffer, most, time.monotonic() + self.retry_seconds)
            return buffer.getvalue()
        file = self.folder / name
        try:
            if file.stat().st_size > most:
                raise _too_large(str(file), most)
            return file.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MissingFileError(f"{file}: no such file") from error
        except OSError as error:
            raise InputError(f"{file}: {error.strerror}") from error

    def download(self, name: str, file: Path, most: int, deadline: float) -> int:
        """Copy a file that should be there to `file`, which appears when it is complete.

        Args:
            name: of the file in the storage.
            file: where it goes; one process at a time, please.
            most: bytes; a larger file is refused, as it would fill the disk.
            deadline: until when to ask a server that does not answer, by `time.monotonic`.

        Returns:
            Its size, bytes.

        Raises:
            MissingFileError: it is not there, or may not be seen.
            InputError: the server did not answer in time, or the disk is full.
        """
        part = file.with_name(f"{file.name}{UNFINISHED}")
        try:
            with part.open("wb") as stream:
                # A server that was started again may not have all its files at once.
                missing_until = time.monotonic() + _MISSING_SECONDS
                self._fetch(name, stream, most, deadline, missing_until)
            size = part.stat().st_size
            part.replace(file)
            return size
        except OSError as error:
            raise InputError(f"{file}: {error.strerror or error}") from error
        finally:
            part.unlink(missing_ok=True)

    def _fetch(
        self, name: str, stream: BinaryIO, most: int, deadline: float, missing_until: float = 0.0
    ) -> None:
        address, started, pause = f"{self.uri}/{name}", time.monotonic(), _FIRST_PAUSE
        limited = _Limited(stream, most, address)
        with ExitStack() as notice:
            speaking = False
            while True:
                stream.seek(0)
                stream.truncate()
                try:
                    self._client().download_fileobj(address, limited)
                    break
                except InputError:
                    raise
                except Exception as error:  # each provider's library has its own
                    reason = reason_of(error)
                    left = ask_until(error, deadline, missing_until) - time.monotonic()
                    if left <= 0:
                        raise gave_up(address, error, time.monotonic() - started) from error
                if not speaking and (speaking := notice.enter_context(self._may_speak())):
                    how_long = duration(round(left))
                    log.warning("%s: %s; trying again for %s", address, reason, how_long)
                time.sleep(min(pause, left))
                pause = min(2 * pause, _LONGEST_PAUSE)
            if speaking:
                log.warning("%s: back after %s", address, duration(time.monotonic() - started))

    @contextmanager
    def _may_speak(self) -> Iterator[bool]:
        """Whether this process is the one of the node that speaks of the outage."""
        if self._notices is None or not self._notices.parent.is_dir():
            yield True
            return
        lock = FileLock(self._notices)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        with lock:
            yield True

    def _client(self) -> Any:
        """litdata's downloader. One a process: a fork must not share connections."""
        if self._downloader is None or self._downloader[0] != os.getpid():
            from litdata.streaming.downloader import get_downloader

            try:
                options = self._options()
                client = get_downloader(f"{self.uri}/", "", [], options, {})
            except ModuleNotFoundError as error:
                package = "google-cloud-storage"
                raise InputError(f"{self.uri} needs: uv pip install {package}") from error
            self._downloader = os.getpid(), client
        return self._downloader[1]

    def _options(self) -> dict[str, Any]:
        """What the provider's client is made with; credentials come from its usual places."""
        if self.scheme == "gs":
            return _google_options(self._endpoint, self._anonymous)
        from botocore import UNSIGNED
        from botocore.config import Config

        config: dict[str, Any] = {
            "connect_timeout": 10,
            "read_timeout": 60,
            "retries": {"total_max_attempts": _ATTEMPTS, "mode": "standard"},
        }
        if self._anonymous:
            config["signature_version"] = UNSIGNED
        if self._endpoint is None:
            return {"config": Config(**config)}
        config["s3"] = {"addressing_style": "path"}  # few such servers have a name for each bucket
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION", "us-east-1")
        return {
            "config": Config(**config),
            "endpoint_url": self._endpoint,
            "region_name": region,  # goes into the signature; few such servers care
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_downloader": None}


def _google_options(endpoint: str | None, anonymous: bool) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if endpoint is not None:
        options["client_options"] = {"api_endpoint": endpoint}
    if anonymous:
        credentials: Any = import_module("google.auth.credentials")
        options |= {"credentials": credentials.AnonymousCredentials(), "project": "none"}
    return options


class _Limited:
    """A stream that refuses to become too large."""

    def __init__(self, stream: BinaryIO, most: int, address: str) -> None:
        self._stream = stream
        self._most = most
        self._address = address

    def write(self, data: bytes) -> int:
        if self._stream.tell() + len(data) > self._most:
            raise _too_large(self._address, self._most)
        return self._stream.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _too_large(address: str, most: int) -> InputError:
    return InputError(f"{address}: larger than the {most:,} bytes that it may have")
