"""Any source's images as litdata's chunks: in parallel, resumable, every image exactly once.

litdata's own `optimize` (0.2.76) was tried: when it is killed, its workers write on beside those of
the next start; a broken image ends it with a traceback; and which images a chunk holds depends on
the number of workers. So its writer alone is used, a chunk at a time, see `Parts`.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from vgglab.cores import usable_cores
from vgglab.data.batches import OnError
from vgglab.data.images import ImageSet
from vgglab.data.module import ImageDataModule
from vgglab.data.shards.index import DESCRIPTION
from vgglab.data.shards.parts import RECORDS, Parts, name_of, order_in_chunks
from vgglab.data.shards.recipe import Recipe, file_content
from vgglab.errors import BrokenImageError, InputError
from vgglab.extras import require
from vgglab.files import alone_in, flush, read_json, replace_file
from vgglab.progress import Advance, progress
from vgglab.text import percent, plural

_PLAN = "plan.json"
_TRIED = 32  # images, which tell how many make a chunk
# A split has so many chunks, for as many processes to share in writing and reading it, as long as
# a chunk keeps so many images.
_CHUNKS, _IMAGES = 64, 16


class Written(NamedTuple):
    """One split."""

    split: str
    images: int
    chunks: int
    stored_bytes: int
    source_bytes: int
    """Of the image files that the shards were made from."""
    skipped: list[str]
    is_new: bool

    def __str__(self) -> str:
        state = "" if self.is_new else " (complete since an earlier start)"
        amount = f"{plural(self.images, 'image')} in {plural(self.chunks, 'chunk')}"
        share = percent(self.stored_bytes / self.source_bytes, ".0f")
        size = f"{self.stored_bytes / 1e6:,.1f} MB, {share} of the source's files"
        skipped = f"; {len(self.skipped):,} skipped" if self.skipped else ""
        return f"{self.split}{state}: {amount}, {size}{skipped}"


@dataclass(frozen=True)
class Sharding:
    """How a source's images become shards.

    Args:
        recipe: what is stored of an image.
        chunk_megabytes: the size of a chunk, at most, about. Chunks are fetched whole: small ones
            cost a request for few images, and large ones memory and time before the first batch.
            At 64, the 0.1 s that object storage takes to answer is a tenth of the transfer.
        num_workers: processes; 0 works in this one. What is written does not depend on it.
        on_error: what becomes of an image that cannot be read: the end, or left out and listed.
    """

    recipe: Recipe
    chunk_megabytes: int = 64
    num_workers: int = 0
    on_error: OnError = "raise"

    def write(self, data: ImageDataModule, output: Path, *, source: str) -> Iterator[Written]:
        """Write `output/<split>` for each split that the source has; continue where that is begun.

        A split grows in `<split>.part`, and gets its name when it is complete.

        Args:
            data: the source; its settings of batches and augmentation do not matter.
            output: a local folder.
            source: its name, for the description.

        Raises:
            InputError: a broken image, a full disk, shards of other settings or other images in
                `output`, another process at work there, or litdata is not installed.
        """
        require("litdata", extra="stream", what="scripts/shard_dataset.py")
        data.prepare_data()
        for split in ("train", "val", "test"):
            images = data.stored_split(split)
            if images is not None and len(images):
                yield self._write_split(images, output, split, source)

    def _write_split(self, images: ImageSet, output: Path, split: str, source: str) -> Written:
        folder = output / split
        settings = {
            "version": 1,
            **self.recipe.described(),
            "chunk_megabytes": self.chunk_megabytes,
            "names_and_labels": _digest(images),
            "source": source,
        }
        is_new = not folder.exists()
        try:
            if is_new:
                self._write_new(images, folder, settings)
            else:
                _check_same(folder, DESCRIPTION, settings)
                shutil.rmtree(folder / RECORDS, ignore_errors=True)  # if it was killed just before
        except BlockingIOError as error:
            raise InputError(f"output={output}: another process writes there") from error
        except OSError as error:
            raise InputError(f"output={output}: {error.strerror or error}") from error
        found = read_json(folder / DESCRIPTION)
        return Written(
            split,
            found["count"],
            found["chunks"],
            found["stored_bytes"],
            found["source_bytes"],
            found["skipped"],
            is_new,
        )

    def _write_new(self, images: ImageSet, folder: Path, settings: dict[str, Any]) -> None:
        part = folder.with_name(f"{folder.name}.part")
        made = [path for path in (part, *part.parents) if not path.exists()]
        records = part / RECORDS
        records.mkdir(parents=True, exist_ok=True)
        with alone_in(records):
            try:
                self._fill(images, part, settings)
            except (InputError, OSError):
                if not any(records.glob("[0-9]*.json")):  # what fails at once leaves nothing
                    shutil.rmtree(part, ignore_errors=True)
                    _remove_empty(made)
                raise
            os.replace(part, folder)
            flush(folder.parent)
        shutil.rmtree(folder / RECORDS)

    def _fill(self, images: ImageSet, folder: Path, settings: dict[str, Any]) -> None:
        if (folder / RECORDS / _PLAN).exists():
            _check_same(folder, f"{RECORDS}/{_PLAN}", settings)
        else:
            plan = {**settings, "chunk_images": self._images_a_chunk(images)}
            replace_file(folder / RECORDS / _PLAN, json.dumps(plan).encode())
        plan = read_json(folder / RECORDS / _PLAN)
        parts = Parts(images, folder, self.recipe, plan["chunk_images"], self.on_error)
        parts.clear()
        try:
            failure = self._write_parts(parts)
        finally:
            parts.clear()
        if failure is not None:
            raise InputError(failure)
        description = {**plan, **parts.complete()}
        text = json.dumps(description, indent=2) + "\n"
        replace_file(folder / DESCRIPTION, text.encode())

    def _images_a_chunk(self, images: ImageSet) -> int:
        sizes = []
        for index in order_in_chunks(images)[:_TRIED].tolist():
            with suppress(BrokenImageError):  # its part will tell
                data = file_content(images, index)
                sizes.append(len(self.recipe.stored(data, images.name(index))))
        shared = max(-(-len(images) // _CHUNKS), _IMAGES)
        if not sizes:
            return shared
        fitting = self.chunk_megabytes * 1_000_000 * len(sizes) // sum(sizes)
        return max(min(shared, fitting), 1)

    def _write_parts(self, parts: Parts) -> str | None:
        """Write what is missing; what went wrong."""
        missing, count = parts.missing(), len(parts.images)
        done = count - sum(len(parts.images_of(part)) for part in missing)
        with progress(f"shard {parts.folder.stem}", count, done=done) as advance:
            try:
                return self._run(parts, missing, advance)
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                return (
                    "a worker process was killed, perhaps because memory ran out: start again with "
                    "a smaller data.num_workers, to continue"
                )

    def _run(self, parts: Parts, missing: list[int], advance: Advance) -> str | None:
        # A loader for its processes: they end with this one, and use one thread each.
        loader = DataLoader(
            parts,
            batch_size=None,
            sampler=missing,
            num_workers=min(self.num_workers, len(missing), usable_cores()),
            in_order=False,
        )
        for outcome in loader:
            if isinstance(outcome, str):
                return outcome
            advance(outcome)
        return None


def _digest(images: ImageSet) -> str:
    state = hashlib.sha256()
    for index, label in enumerate(images.labels.tolist()):
        state.update(name_of(images, index) + f"\n{label}\n".encode())
    return state.hexdigest()


def _check_same(folder: Path, name: str, settings: dict[str, Any]) -> None:
    """Refuse to mix shards of two kinds."""
    if not (folder / name).exists():
        raise InputError(f"output: {folder} is there, and is no folder of shards")
    found = read_json(folder / name)
    for setting, wanted in settings.items():
        if setting != "source" and found.get(setting) != wanted:
            what = f"{setting}={json.dumps(found.get(setting))}, not {json.dumps(wanted)}"
            if setting == "names_and_labels":
                what = "other images"
            raise InputError(f"output: {folder} is of {what}; remove it, or give another output")


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):
        for folder in folders:
            if folder.exists():
                folder.rmdir()
