"""What scripts/shard_dataset.py wrote, read through litdata from a disk or from object storage."""

import hashlib
import json
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from vgglab.data.chunk_cache import Chunk, ChunkCache, cut_short
from vgglab.data.images import EncodedImages
from vgglab.data.storage import Storage
from vgglab.errors import InputError
from vgglab.files import replace_file

_ATTEMPTS = 10  # to open a chunk before another process deletes it
_MAPPED = 64  # chunks that litdata keeps open, a process


class Description(BaseModel):
    """What of `vgglab.json` is needed to read; the rest of it says how the shards were made."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: int
    classes: list[str]
    count: int
    labels: str
    order: str
    names: str


class Shards:
    """The encoded images of one split.

    Args:
        storage: the folder of the split.
        description: its `vgglab.json`.
        cache: where chunks from object storage go; see `ChunkCache`.
        cache_limit: bytes.

    Raises:
        InputError: a file is missing or damaged.
    """

    def __init__(
        self, storage: Storage, description: bytes, cache: Path, cache_limit: int | None
    ) -> None:
        import litdata  # noqa: F401 - seconds, once: workers are forked later

        self.storage = storage
        index = storage.read("index.json")
        self.description = self._description(description)
        self.chunks = self._chunks(index)
        self.starts = np.cumsum([0, *(chunk.images for chunk in self.chunks)])
        self.folder = storage.folder
        self.cache: ChunkCache | None = None
        if self.folder is None:
            # A set that was made anew has another folder: its chunks have the same names.
            made_of = b"\0".join([storage.uri.encode(), description, index])
            key = hashlib.sha256(made_of).hexdigest()[:16]
            self.folder = cache / key / Path(storage.uri).name
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(self.folder / "index.json", index)
            self.cache = ChunkCache(storage, self.chunks, self.folder, cache, cache_limit)
        self.labels = torch.from_numpy(self._array(self.description.labels).astype(np.int64))
        order = torch.from_numpy(self._array(self.description.order).astype(np.int64))
        if not torch.equal(order.sort().values, torch.arange(len(order))):
            raise self._damaged(self.description.order, "an image is missing or there twice")
        self.positions = order
        self.names = np.array(self._file(self.description.names).split(b"\n")[: len(order)])
        if len(self.names) != len(order):
            raise self._damaged(self.description.names, f"{len(self.names):,} names")
        self._checked: set[int] = set()
        self._dataset: tuple[int, Any] | None = None

    def chunk_of(self, positions: Tensor) -> Tensor:
        """The chunk that holds each position, (N,) int64."""
        return torch.from_numpy(np.searchsorted(self.starts, positions.numpy(), "right") - 1)

    def fetch(self, chunks: Sequence[int], ahead: Sequence[int] = ()) -> None:
        """Wait until chunks are at hand, and begin to fetch those that are needed next.

        Raises:
            InputError: a chunk cannot be fetched, or is cut short.
        """
        if self.cache is not None:
            self.cache.prefetch([*_turned(chunks), *ahead])
        for chunk in chunks:
            self._at_hand(chunk)

    def read(self, position: int) -> bytes:
        """The file content of the image at a position.

        Raises:
            InputError: its chunk cannot be fetched or is damaged.
        """
        from litdata.streaming.sampler import ChunkedIndex

        chunk = int(np.searchsorted(self.starts, position, "right")) - 1
        at = ChunkedIndex(index=position, chunk_index=chunk)
        for attempt in range(_ATTEMPTS):
            self._at_hand(chunk)
            try:
                # litdata gives a view of the mapped chunk, which may be closed later.
                return bytes(self._reader()[at]["data"])
            except Exception as error:  # what damage makes it raise is not told
                file = self._file_of(chunk)
                # Another run on this machine may need the room, and delete it before it is opened.
                if attempt == _ATTEMPTS - 1 or file.exists():
                    raise InputError(f"{file}: damaged chunk ({error!r})") from error
        raise AssertionError

    def _at_hand(self, chunk: int) -> None:
        if self.cache is not None:
            self.cache.file(chunk)
        elif chunk not in self._checked:
            # litdata maps the file: what lies beyond its end would kill the process.
            file, size = self._file_of(chunk), self.chunks[chunk].size
            try:
                found = file.stat().st_size
            except OSError as error:
                raise InputError(f"{file}: {error.strerror}") from error
            if found != size:
                raise cut_short(file, found, size)
            self._checked.add(chunk)

    def _file_of(self, chunk: int) -> Path:
        assert self.folder is not None
        return self.folder / self.chunks[chunk].name

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

    def _description(self, text: bytes) -> Description:
        try:
            description = Description.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise self._damaged("vgglab.json", f"{place}: {first['msg']}".lstrip(": ")) from error
        if description.version != 1:
            raise self._damaged("vgglab.json", f"version {description.version}, not 1")
        return description

    def _chunks(self, text: bytes) -> list[Chunk]:
        try:
            index = json.loads(text)
            packed = index["config"]["compression"] or index["config"]["encryption"]
            chunks = [
                Chunk(c["filename"], int(c["chunk_bytes"]), int(c["chunk_size"]))
                for c in index["chunks"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged("index.json", f"{type(error).__name__}: {error}") from error
        if packed or any(Path(chunk.name).name != chunk.name for chunk in chunks):
            raise self._damaged("index.json", "not of scripts/shard_dataset.py")
        if (found := sum(chunk.images for chunk in chunks)) != self.description.count:
            count = self.description.count
            raise self._damaged("index.json", f"{found:,} images, but vgglab.json says {count:,}")
        return chunks

    def _array(self, name: str) -> npt.NDArray[Any]:
        """(count,) integers of one of the files beside the chunks."""
        try:
            array = np.load(BytesIO(self._file(name)), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise self._damaged(name, str(error)) from error
        if array.shape != (self.description.count,) or array.dtype.kind not in "iu":
            raise self._damaged(name, f"{array.dtype} of shape {array.shape}")
        return array

    def _file(self, name: str) -> bytes:
        """A file beside the chunks, fetched once a node."""
        if self.cache is None:
            return self.storage.read(name)
        file = self.cache.folder / Path(name).name
        with FileLock(file.with_name(f"{file.name}.lock")):
            if not file.exists():
                replace_file(file, self.storage.read(name))
        return file.read_bytes()

    def _damaged(self, name: str, what: str) -> InputError:
        return InputError(f"{self.storage.uri}/{name}: damaged ({what})")

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
        self.classes = shards.description.classes
        self.positions = shards.positions[self.indices]
        self.chunk_of = shards.chunk_of(self.positions)
        self._check_labels(shards.storage.uri)

    def name(self, index: int) -> str:
        file = os.fsdecode(bytes(self.shards.names[int(self.indices[index])]))
        return f"{file} in {self.shards.storage.uri}"

    def read(self, index: int) -> bytes:
        return self.shards.read(int(self.positions[index]))

    def subset(self, indices: Tensor) -> "StreamedImages":
        return StreamedImages(self.shards, self.indices[indices])

    def as_stored(self) -> "StreamedImages":
        """The same images in the order in which they lie in the chunks."""
        return self.subset(self.positions.argsort())


def _turned(chunks: Sequence[int]) -> list[int]:
    """The same chunks, begun elsewhere by each process, so that not all fetch the same one."""
    turn = os.getpid() * 4 % max(len(chunks), 1)
    return [*chunks[turn:], *chunks[:turn]]
