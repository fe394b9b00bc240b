"""Chunks of a data set on the local disk: bounded, and shared by the processes of a node."""

import os
import queue
import shutil
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from vgglab.data.shards.storage import UNFINISHED, Storage
from vgglab.errors import InputError

DOWNLOADS = 4
"""At a time, a process."""
_SHARE = 0.75  # of the free disk, where no limit is given


class Chunk(NamedTuple):
    """A file of encoded images, as `index.json` lists it."""

    name: str
    size: int
    """Bytes."""
    images: int
    """How many are in it."""


class ChunkCache:
    """Downloads chunks when they are asked for, and deletes those that were not for longest.

    No counts of who uses what are kept, which a killed process would leave wrong: a deleted file
    stays with who has it open, and who comes later fetches it again. Who fetches a chunk holds its
    lock, which goes with the process: an unfinished file without one was left by a killed process.

    Args:
        storage: where the chunks come from.
        chunks: all of them.
        folder: where they go.
        root: holds `folder`, and those of other data sets; the limit is for all of them.
        limit: bytes. None: three quarters of what is free and what is already there.
    """

    def __init__(
        self,
        storage: Storage,
        chunks: Sequence[Chunk],
        folder: Path,
        root: Path,
        limit: int | None = None,
    ) -> None:
        self.storage = storage
        self.chunks = chunks
        self.folder = folder
        self.root = root
        self.limit = limit
        self._ahead: tuple[int, queue.SimpleQueue[int]] | None = None

    def file(self, chunk: int) -> Path:
        """The file of a chunk, fetched where it is not there.

        Raises:
            InputError: it cannot be fetched, or has another size than the index says.
        """
        name, size, _ = self.chunks[chunk]
        file = self.folder / name
        deadline = time.monotonic() + self.storage.retry_seconds
        # Where room is scarce, another process may take it again at once.
        while not self._touched(file, size):
            self._fetch(name, size, deadline)
        return file

    def prefetch(self, chunks: Sequence[int]) -> None:
        """Begin to fetch chunks, in this order; what fails is left to `file`."""
        if self._ahead is None or self._ahead[0] != os.getpid():  # threads do not survive a fork
            self._ahead = os.getpid(), queue.SimpleQueue()
            for _ in range(DOWNLOADS):
                threading.Thread(target=self._work, args=(self._ahead[1],), daemon=True).start()
        for chunk in chunks:
            if not (self.folder / self.chunks[chunk].name).exists():
                self._ahead[1].put(chunk)

    def _work(self, ahead: "queue.SimpleQueue[int]") -> None:
        while True:
            name, size, _ = self.chunks[ahead.get()]
            with suppress(InputError, OSError, Timeout):  # if another process is at it, well
                self._fetch(name, size, deadline=0, blocking=False)

    def _touched(self, file: Path, size: int) -> bool:
        """Whether the chunk is there; if so, it counts as used now."""
        try:
            os.utime(file)
            return file.stat().st_size == size  # a power cut may leave a shorter one
        except FileNotFoundError:
            return False

    def _fetch(self, name: str, size: int, deadline: float, *, blocking: bool = True) -> None:
        file = self.folder / name
        with FileLock(file.with_name(f"{name}.lock"), blocking=blocking):
            if self._touched(file, size):  # by another process, meanwhile
                return
            part = file.with_name(f"{name}{UNFINISHED}")
            with FileLock(self.root / "room.lock"):
                part.unlink(missing_ok=True)
                self._make_room(size)
                part.touch()
            if (found := self.storage.download(name, file, size, deadline)) != size:
                file.unlink(missing_ok=True)
                raise _cut_short(f"{self.storage.uri}/{name}", found, size)

    def _make_room(self, size: int) -> None:
        kept, held = [], 0
        for file in self.root.glob("*/*/*.bin*"):
            if file.suffix != ".lock":
                with suppress(FileNotFoundError):  # deleted by another process
                    status = file.stat()
                    is_begun = file.suffix == UNFINISHED and _is_fetched_now(file)
                    # What is being fetched will have about the size of any other chunk.
                    takes = max(status.st_size, size) if is_begun else status.st_size
                    held += takes
                    if not is_begun:
                        kept.append((status.st_mtime, takes, file))
        limit = self.limit
        if limit is None:
            limit = int(_SHARE * (held + shutil.disk_usage(self.root).free))
        for _, takes, file in sorted(kept):
            if held + size <= limit:
                break
            file.unlink(missing_ok=True)
            held -= takes

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_ahead": None}


def _is_fetched_now(part: Path) -> bool:
    file = part.with_suffix(".lock")
    if not file.exists():
        return False
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    return False


def check_chunk(folder: Path, chunk: Chunk) -> None:
    """Refuse a file that litdata, which maps it, would read beyond its end: that kills a process.

    Raises:
        FileNotFoundError: it is not there.
        InputError: it has another size, or its table of images is damaged.
    """
    file = folder / chunk.name
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size != chunk.size:
                raise _cut_short(file, size, chunk.size)
            table = np.frombuffer(stream.read(4 * (chunk.images + 2)), np.uint32).astype(np.int64)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from error
    # How many images there are, where each begins, and where the last one ends.
    is_whole = (table[0], table[1], table[-1]) == (chunk.images, 4 * (chunk.images + 2), size)
    if not is_whole or (np.diff(table[1:]) < 0).any():
        raise InputError(f"{file}: damaged chunk, copy it again")


def _cut_short(file: object, found: int, size: int) -> InputError:
    return InputError(f"{file}: {found:,} bytes, but its index says {size:,}: copy it again")
