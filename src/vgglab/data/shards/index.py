"""The files beside the chunks of a split, checked before anything depends on them.

They may be a stranger's. litdata does what an `index.json` asks for, unpickling included, so that
only one of scripts/shard_dataset.py's kind is taken; and no count is trusted that would need more
memory than the files themselves.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vgglab.data.shards.cache import Chunk
from vgglab.errors import InputError
from vgglab.text import one_line, shortened

DESCRIPTION, INDEX = "vgglab.json", "index.json"
NAMES, LABELS, ORDER = "names.txt", "labels.npy", "order.npy"
"""One line, one label and one position in the chunks for each image, in the sources' order."""

_LARGEST = 2**32  # bytes of a chunk: litdata's offsets are uint32
_LEAST = 16  # bytes an image has in a chunk: its offset, and the lengths of its three values
_LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
_SPEC = [
    1,
    {
        "type": "builtins.dict",
        "context": '["index", "label", "data"]',
        "children_spec": [_LEAF, _LEAF, _LEAF],
    },
]
_UNUSED = {"chunk_bytes", "chunk_size", "types"}  # how they were written; reading depends on none

Parsed = TypeVar("Parsed")


class Description(BaseModel):
    """What of `vgglab.json` is needed to read; the rest of it says how the shards were made."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    version: Literal[1]
    classes: list[str]
    count: Annotated[int, Field(gt=0, lt=2**31)]
    skipped: list[str] = []
    """A line for each image that could not be read."""


class _Chunk(BaseModel):
    model_config = ConfigDict(strict=True)

    filename: Annotated[str, Field(pattern=r"^chunk-0-[0-9]+\.bin$")]
    chunk_bytes: Annotated[int, Field(gt=0, lt=_LARGEST)]
    chunk_size: Annotated[int, Field(gt=0)]
    dim: None = None

    @model_validator(mode="after")
    def _has_room(self) -> "_Chunk":
        if self.chunk_size * _LEAST > self.chunk_bytes:
            raise ValueError(f"{self.chunk_size:,} images in {self.chunk_bytes:,} bytes")
        return self


class _Config(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    data_format: list[str]
    data_spec: str
    item_loader: Literal["PyTreeLoader"]

    @model_validator(mode="after")
    def _is_ours(self) -> "_Config":
        if self.data_format != ["int", "int", "bytes"] or json.loads(self.data_spec) != _SPEC:
            raise ValueError("images of another form")
        for name, value in (self.model_extra or {}).items():  # such as compression
            if value is not None and name not in _UNUSED:
                raise ValueError(f"unknown {name}")
        return self


class _Index(BaseModel):
    config: _Config
    chunks: list[_Chunk]


@dataclass(frozen=True)
class Names:
    """Of the source files, in one text: a string for each would cost every worker its own copy."""

    text: bytes
    ends: npt.NDArray[np.int64]
    """(N,), where in `text` each one ends."""

    def __getitem__(self, image: int) -> bytes:
        begin = self.ends[image - 1] + 1 if image else 0
        return self.text[begin : self.ends[image]]


def parse_file(parse: Callable[..., Parsed], address: str, content: bytes, *args: Any) -> Parsed:
    """What `parse(content, *args)` makes of the file at `address`.

    Raises:
        InputError: it is damaged, or not of scripts/shard_dataset.py.
    """
    try:
        return parse(content, *args)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        what = f"{place}: {first['msg'].removeprefix('Value error, ')}".lstrip(": ")
    except (ValueError, RecursionError) as error:
        what = str(error)
    what = shortened(one_line(what), 200)  # it may quote the file
    raise InputError(f"{address}: damaged, or not of scripts/shard_dataset.py ({what})")


def parse_description(content: bytes) -> Description:
    return Description.model_validate_json(content)


def parse_index(content: bytes, count: int) -> list[Chunk]:
    """The chunks in litdata's index, which hold `count` images."""
    found = _Index.model_validate_json(content).chunks
    chunks = [Chunk(chunk.filename, chunk.chunk_bytes, chunk.chunk_size) for chunk in found]
    if (held := sum(chunk.images for chunk in chunks)) != count:
        raise ValueError(f"{held:,} images, but vgglab.json says {count:,}")
    if len({chunk.name for chunk in chunks}) != len(chunks):
        raise ValueError("a chunk is there twice")
    return chunks


def parse_labels(content: bytes, count: int) -> npt.NDArray[np.int64]:
    """(count,) integers of an `.npy`."""
    stream = BytesIO(content)
    # Not `np.load`, which makes an array of the size that the header says before it reads any.
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("another version of .npy")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if shape != (count,) or dtype.kind not in "iu":
        raise ValueError(f"{dtype} of shape {shape}")
    values = content[stream.tell() :]
    if len(values) != count * dtype.itemsize:
        raise ValueError(f"{len(values):,} bytes of {count * dtype.itemsize:,}")
    return np.frombuffer(values, dtype).astype(np.int64)


def parse_order(content: bytes, count: int) -> npt.NDArray[np.int64]:
    """(count,) positions, each once."""
    order = parse_labels(content, count)
    if not np.array_equal(np.sort(order), np.arange(count)):
        raise ValueError("an image is missing or there twice")
    return order


def parse_names(content: bytes, count: int) -> Names:
    ends = np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n"))
    if len(ends) != count:
        raise ValueError(f"{len(ends):,} names")
    return Names(content, ends)
