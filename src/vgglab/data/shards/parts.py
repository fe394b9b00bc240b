"""The parts of a split's shards: each is one chunk, done once it has its record beside it."""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vgglab.data.batches import OnError
from vgglab.data.images import FileImages, ImageSet
from vgglab.data.shards.index import INDEX, LABELS, NAMES, ORDER
from vgglab.data.shards.recipe import Recipe, file_content
from vgglab.errors import BrokenImageError, InputError
from vgglab.files import flush, read_json, replace_file
from vgglab.text import one_line

RECORDS = ".parts"
"""The folder of the records, in that of the split while that is written."""
_ASIDE = ".writing-"
_SEED = 0


def order_in_chunks(images: ImageSet) -> Tensor:
    """The images as they lie in the chunks, (N,) int64.

    Drawn, because a source has its images class by class, and those of a chunk are read together.
    """
    return torch.randperm(len(images), generator=torch.Generator().manual_seed(_SEED))


def name_of(images: ImageSet, index: int) -> bytes:
    """One line, relative to the source: a source that was moved is the same."""
    if isinstance(images, FileImages):
        return bytes(images.files[index]).replace(b"\n", b" ")
    return f"image {index}".encode()


@dataclass
class Parts(Dataset[int | str]):
    """Writes part `i` when asked for item `i`; gives its number of images, or what went wrong.

    Args:
        images: of the split.
        folder: where the chunks go.
        recipe: what is stored of an image.
        size: images of a part.
        on_error: what becomes of an image that cannot be read: the end, or left out and listed.
    """

    images: ImageSet
    folder: Path
    recipe: Recipe
    size: int
    on_error: OnError

    def __post_init__(self) -> None:
        self.order = order_in_chunks(self.images)

    def __len__(self) -> int:
        return -(-len(self.order) // self.size)

    def images_of(self, part: int) -> list[int]:
        return self.order[part * self.size : (part + 1) * self.size].tolist()

    def missing(self) -> list[int]:
        """Parts without a record, and those that lack an image which is to be there now."""
        return [part for part in range(len(self)) if not self._is_done(part)]

    def _is_done(self, part: int) -> bool:
        record = self._record(part)
        return record.exists() and (self.on_error == "skip" or not read_json(record)["skipped"])

    def _record(self, part: int) -> Path:
        return self.folder / RECORDS / f"{part}.json"

    def __getitem__(self, part: int) -> int | str:
        try:
            with tempfile.TemporaryDirectory(prefix=_ASIDE, dir=self.folder) as aside:
                self._write(part, Path(aside))
        except InputError as error:
            return str(error)
        except OSError as error:
            return f"cannot write {self.folder}: {error.strerror or error}"
        return len(self.images_of(part))

    def _write(self, part: int, aside: Path) -> None:
        from litdata.streaming.writer import BinaryWriter

        samples: list[dict[str, Any]] = []
        skipped: list[tuple[int, str]] = []
        resized = source_bytes = 0
        for index in self.images_of(part):
            try:
                data = file_content(self.images, index)
                stored = self.recipe.stored(data, self.images.name(index))
            except BrokenImageError as error:
                if self.on_error == "raise":
                    raise InputError(f"{error}; data.on_error=skip leaves it out") from error
                skipped.append((index, one_line(str(error))))
                continue
            resized += stored is not data
            source_bytes += len(data)
            label = int(self.images.labels[index])
            samples.append({"index": index, "label": label, "data": stored})
        record: dict[str, Any] = {"index": None, "resized": resized, "skipped": skipped}
        record["source_bytes"] = source_bytes
        if samples:
            # Not less in the last part: litdata merges what has the same settings.
            chunk = BinaryWriter(str(aside), chunk_size=self.size)
            for position, sample in enumerate(samples):
                chunk[position] = sample
            chunk.done()
            record["index"] = self._put(part, aside)
        replace_file(self._record(part), json.dumps(record).encode())

    def _put(self, part: int, aside: Path) -> dict[str, Any]:
        """Move a chunk to its place; litdata's index of it.

        litdata names a chunk by its writer. By its part a chunk that is written twice, because its
        first writer was killed before the record, is there once.
        """
        (file,) = aside.glob("*.index.json")
        index = read_json(file)
        (info,) = index["chunks"]
        chunk = aside / info["filename"]
        flush(chunk)
        info["filename"] = f"chunk-0-{part}.bin"
        os.replace(chunk, self.folder / info["filename"])
        flush(self.folder)
        return index

    def clear(self) -> None:
        """Remove what killed processes left. None may be writing."""
        for aside in self.folder.glob(f"{_ASIDE}*"):
            shutil.rmtree(aside, ignore_errors=True)

    def complete(self) -> dict[str, Any]:
        """From all parts to a data set of litdata's, with labels, order and names beside it.

        Returns:
            What `vgglab.json` says of them.

        Raises:
            InputError: no image at all could be read.
        """
        records = [read_json(self._record(part)) for part in range(len(self))]
        skipped = dict(pair for record in records for pair in record["skipped"])
        left_out = torch.tensor(list(skipped), dtype=torch.int64)
        stored = self.order[~torch.isin(self.order, left_out)]
        if not len(stored):
            raise InputError(f"no image can be read; the first: {skipped[min(skipped)]}")
        chunks = _merge(self.folder, [record["index"] for record in records])
        present = stored.sort()  # sources, and the positions in the chunks that hold them
        names = b"".join(name_of(self.images, index) + b"\n" for index in present.values.tolist())
        replace_file(self.folder / NAMES, names)
        replace_file(self.folder / LABELS, _npy(self.images.labels[present.values]))
        replace_file(self.folder / ORDER, _npy(present.indices))
        return {
            "classes": list(self.images.classes),
            "count": len(stored),
            "resized": sum(record["resized"] for record in records),
            "chunks": len(chunks),
            "stored_bytes": sum(chunk["chunk_bytes"] for chunk in chunks),
            "source_bytes": sum(record["source_bytes"] for record in records),
            "skipped": [skipped[index] for index in sorted(skipped)],
        }


def _merge(folder: Path, indices: list[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """Write litdata's `index.json`; its chunks."""
    from litdata import complete_dataset

    # Aside, because litdata removes what it merges before it has written the whole.
    with tempfile.TemporaryDirectory(prefix=_ASIDE, dir=folder) as aside:
        for part, index in enumerate(indices):
            if index is not None:
                Path(aside, f"{part}.index.json").write_text(json.dumps(index), encoding="utf-8")
        complete_dataset(aside)
        merged = Path(aside, INDEX).read_bytes()
    replace_file(folder / INDEX, merged)
    return json.loads(merged)["chunks"]


def _npy(values: Tensor) -> bytes:
    buffer = BytesIO()
    np.save(buffer, values.numpy().astype(np.int32))
    return buffer.getvalue()
