"""What scripts/shard_dataset.py wrote, read through litdata from a disk or from object storage."""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from vgglab.data.images import EncodedImages
from vgglab.data.sampling import BatchKeys
from vgglab.data.shards.cache import DOWNLOADS, Chunk, ChunkCache, check_chunk
from vgglab.data.shards.index import (
    DESCRIPTION,
    INDEX,
    LABELS,
    NAMES,
    ORDER,
    Names,
    Parsed,
    parse_description,
    parse_file,
    parse_index,
    parse_labels,
    parse_names,
    parse_order,
)
from vgglab.data.shards.storage import Storage
from vgglab.errors import BrokenImageError, InputError
from vgglab.files import replace_file
from vgglab.text import printable

_ATTEMPTS = 10  # to open a chunk before another process deletes it
_MAPPED = 64  # chunks that litdata keeps open, a process
_LARGE = 1 << 30  # bytes; the names of 10 million images have half of it


@dataclass
class Shards:
    """The encoded images of one split, by their index in the order of the source."""

    uri: str
    folder: Path
    """Where litdata finds `index.json` and the chunks."""
    cache: ChunkCache | None
    """Fetches the chunks into `folder`. None: they are there."""
    classes: Sequence[str]
    chunks: Sequence[Chunk]
    labels: Tensor
    """(N,) int64."""
    positions: Tensor
    """(N,) int64, where each image lies in the chunks, counted over all of them."""
    names: Names
    skipped: Sequence[str] = ()
    """A line for each image of the source that could not be read when they were written."""
    _checked: set[int] = field(default_factory=set)
    _dataset: tuple[int, Any] | None = None

    def __post_init__(self) -> None:
        self._starts = np.cumsum([0, *(chunk.images for chunk in self.chunks)])

    def chunk_of(self, positions: Tensor) -> Tensor:
        """The chunk that holds each position, (N,) int64."""
        return torch.from_numpy(np.searchsorted(self._starts, positions.numpy(), "right") - 1)

    def name(self, image: int) -> str:
        return f"{printable(os.fsdecode(self.names[image]))} in {self.uri}"

    def fetch(self, chunks: Sequence[int], ahead: Sequence[int] = ()) -> None:
        """Wait until chunks are at hand, and begin to fetch those that are needed next.

        Raises:
            InputError: a chunk cannot be fetched, or is damaged.
        """
        if self.cache is not None:
            self.cache.prefetch([*_turn(chunks), *ahead])
        for chunk in chunks:
            with suppress(FileNotFoundError):  # another run needed the room; `read` asks again
                self._make_ready(chunk)

    def read(self, image: int) -> bytes:
        """The file content of one image.

        Raises:
            BrokenImageError: its bytes are damaged, in a chunk that is in order.
            InputError: its chunk cannot be fetched, or is damaged.
        """
        from litdata.streaming.sampler import ChunkedIndex

        position = int(self.positions[image])
        chunk = int(np.searchsorted(self._starts, position, "right")) - 1
        file = self.folder / self.chunks[chunk].name
        for attempt in range(_ATTEMPTS):
            try:
                self._make_ready(chunk)
                sample = self._reader()[ChunkedIndex(index=position, chunk_index=chunk)]
                break
            except InputError:
                raise
            except Exception as error:  # what damage makes litdata raise is not told
                is_gone = isinstance(error, FileNotFoundError) or not file.exists()
                # Another run on this machine may need the room, and delete it before it is opened.
                if is_gone and self.cache is not None and attempt < _ATTEMPTS - 1:
                    continue
                if is_gone or isinstance(error, OSError):
                    raise InputError(
                        f"{file}: {getattr(error, 'strerror', None) or error}"
                    ) from error
                raise BrokenImageError(f"{self.name(image)}: damaged in {file.name}") from error
        # Its index counts the images that were skipped, too.
        if sample["index"] < image or sample["label"] != int(self.labels[image]):
            raise InputError(f"{file}: not of the same set as {ORDER} and {LABELS}: copy it again")
        # litdata gives a view of the mapped chunk, which may be closed later.
        return bytes(sample["data"])

    def _make_ready(self, chunk: int) -> None:
        if self.cache is not None:
            self.cache.file(chunk)
        if chunk not in self._checked:
            check_chunk(self.folder, self.chunks[chunk])
            self._checked.add(chunk)

    def _reader(self) -> Any:
        """litdata's dataset. One a process, as it keeps files open."""
        if self._dataset is None or self._dataset[0] != os.getpid():
            from litdata import StreamingDataset

            # One image at a time: of those decoded together most would be thrown away.
            dataset = StreamingDataset(
                str(self.folder), batch_decode=0, max_pre_download=_MAPPED, shuffle=False
            )
            self._dataset = os.getpid(), dataset
        return self._dataset[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_dataset": None}


class StreamedImages(EncodedImages):
    """Images in shards.

    Args:
        shards: of one split.
        indices: (M,) int64, which of its images, in the order of the files they were made from.
            None: all.
    """

    def __init__(self, shards: Shards, indices: Tensor | None = None) -> None:
        self.shards = shards
        self.indices = torch.arange(len(shards.labels)) if indices is None else indices
        self.labels = shards.labels[self.indices]
        self.classes = shards.classes
        self.skipped = shards.skipped
        self.positions = shards.positions[self.indices]
        self.chunk_of = shards.chunk_of(self.positions)
        self._check_labels(shards.uri)

    def name(self, index: int) -> str:
        return self.shards.name(int(self.indices[index]))

    def read(self, index: int) -> bytes:
        return self.shards.read(int(self.indices[index]))

    def prepare(self, keys: BatchKeys) -> None:
        """Fetch the batch's chunks, and begin with those that are needed next."""
        chunks = set(self.chunk_of[keys.images].tolist())
        self.shards.fetch(sorted(chunks), keys.ahead)

    def subset(self, indices: Tensor) -> "StreamedImages":
        return StreamedImages(self.shards, self.indices[indices])

    def as_stored(self) -> "StreamedImages":
        """The same images in the order in which they lie in the chunks."""
        return self.subset(self.positions.argsort())


def read_shards(
    storage: Storage, description: bytes, cache: Path, cache_limit: int | None
) -> Shards:
    """What is needed to read the images of one split.

    Args:
        storage: the folder of the split.
        description: its `vgglab.json`.
        cache: where chunks from object storage go; see `ChunkCache`.
        cache_limit: bytes.

    Raises:
        InputError: a file is missing or damaged, or not of scripts/shard_dataset.py.
    """
    import litdata  # noqa: F401 - seconds, once: workers are forked later

    described = parse_file(parse_description, f"{storage.uri}/{DESCRIPTION}", description)
    index = storage.read(INDEX)
    chunks = parse_file(parse_index, f"{storage.uri}/{INDEX}", index, described.count)
    folder, chunk_cache, read = storage.folder, None, partial(storage.read, most=_LARGE)
    if folder is None:
        # A set that was made anew has another folder: its chunks have the same names.
        key = hashlib.sha256(b"\0".join([storage.uri.encode(), description, index])).hexdigest()
        folder = cache / key[:16] / Path(storage.uri).name
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / INDEX, index)
        chunk_cache = ChunkCache(storage, chunks, folder, cache, cache_limit)
        read = partial(_read_once, storage, folder)

    def parsed(parse: Callable[..., Parsed], name: str) -> Parsed:
        return parse_file(parse, f"{storage.uri}/{name}", read(name), described.count)

    return Shards(
        storage.uri,
        folder,
        chunk_cache,
        described.classes,
        chunks,
        labels=torch.from_numpy(parsed(parse_labels, LABELS)),
        positions=torch.from_numpy(parsed(parse_order, ORDER)),
        names=parsed(parse_names, NAMES),
        skipped=described.skipped,
    )


def _read_once(storage: Storage, folder: Path, name: str) -> bytes:
    """A file beside the chunks, fetched once a node."""
    file = folder / name
    with FileLock(file.with_name(f"{name}.lock")):
        if not file.exists():
            replace_file(file, storage.read(name, most=_LARGE))
    return file.read_bytes()


def _turn(chunks: Sequence[int]) -> list[int]:
    """The same chunks, begun elsewhere by each process, so that not all fetch the same one."""
    turn = os.getpid() * DOWNLOADS % max(len(chunks), 1)
    return [*chunks[turn:], *chunks[:turn]]
