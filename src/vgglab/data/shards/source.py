"""Images in shards, in a folder or in object storage, of which a few chunks are at hand."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from vgglab.data.bounds import Count
from vgglab.data.images import ImageSet
from vgglab.data.notices import notice
from vgglab.data.sampling import ShardedBatches
from vgglab.data.shards.index import DESCRIPTION
from vgglab.data.shards.order import ChunkedBatches
from vgglab.data.shards.reading import Shards, StreamedImages, read_shards
from vgglab.data.shards.storage import Storage
from vgglab.data.shards.storage_errors import MissingFileError
from vgglab.data.sources.encoded_source import EncodedDataModule
from vgglab.errors import InputError
from vgglab.extras import require
from vgglab.text import plural

_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}


class ImageStream(EncodedDataModule):
    """What scripts/shard_dataset.py wrote: `uri/{train,val,test}`, read through litdata.

    Training reads a few chunks side by side, each rank its own, in an order that depends on the
    seed and the epoch alone. Chunks from object storage are kept on the local disk while there is
    room.

    Args:
        uri: a folder, `s3://bucket/folder` or `gs://bucket/folder`. Credentials come from where the
            provider's own tools look for them.
        endpoint: address of an S3-compatible server. None: the provider's own.
        anonymous: ask without credentials, for public buckets.
        cache_dir: where chunks are kept; the default is litdata's.
        max_cache_size: of all chunks kept there, by all runs of a machine; such as `200GB`. None:
            three quarters of what is free.
        retry_seconds: how long to wait for a server that does not answer.
        interleave: chunks that are read side by side. More of them mix better, and make a process
            wait for more at its start. Those of the ranks are apart where their number divides it.
        **common: see `EncodedDataModule` and `ImageDataModule`.
    """

    def __init__(
        self,
        *,
        uri: str,
        endpoint: str | None = None,
        anonymous: bool = False,
        cache_dir: str = "~/.lightning/chunks",
        max_cache_size: str | None = None,
        retry_seconds: Annotated[float, Ge(0)] = 600.0,
        interleave: Count = 16,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        require("litdata", extra="stream", what="data=imagenet_stream")
        self.cache_limit = None if max_cache_size is None else _bytes(max_cache_size)
        self.cache = Path(cache_dir).expanduser() / "vgglab"
        Storage(uri)  # refuses other kinds before anything is read
        self.uri = uri
        self.endpoint = endpoint
        self.anonymous = anonymous
        self.retry_seconds = retry_seconds
        self.interleave = interleave
        self._shards: dict[str, Shards | MissingFileError] = {}

    @property
    def where(self) -> str:
        return f"data.uri={self.uri}"

    @cached_property
    def classes(self) -> Sequence[str]:
        found = self.shards("train") or self.shards("val") or self.shards("test")
        if found is None:
            raise self._missing()
        return found.classes

    def _missing(self) -> InputError:
        return InputError(
            f"{self.where}: no shards in it, which scripts/shard_dataset.py writes "
            f"({self._shards['train']})"
        )

    def shards(self, split: str) -> Shards | None:
        """Those of `train`, `val` or `test`, if they are there.

        Raises:
            InputError: the storage cannot be read, or what is in it.
        """
        if split not in self._shards:
            self._shards[split] = self._read_shards(split)
        found = self._shards[split]
        return found if isinstance(found, Shards) else None

    def _read_shards(self, split: str) -> Shards | MissingFileError:
        storage = Storage(
            f"{self.uri.rstrip('/')}/{split}",
            endpoint=self.endpoint,
            anonymous=self.anonymous,
            retry_seconds=self.retry_seconds,
            notices=self.cache / "outage.lock",
        )
        try:
            description = storage.read(DESCRIPTION)
        except MissingFileError as error:
            return error
        found = read_shards(storage, description, self.cache, self.cache_limit)
        if found.skipped:
            notice(
                f"{found.uri}: {plural(len(found.skipped), 'image')} could not be read when it was "
                f"written; its {DESCRIPTION} lists them"
            )
        return found

    def stored_split(self, split: str) -> StreamedImages | None:
        classes, shards = self.classes, self.shards(split)
        if shards is None:
            return None
        if list(shards.classes) != list(classes):
            raise InputError(f"{shards.uri}: its classes are not those of train")
        return StreamedImages(shards)

    def load(self, split: str) -> ImageSet | None:
        if split == "train" and self.shards(split) is None:
            raise self._missing()
        images = super().load(split)
        if isinstance(images, StreamedImages) and split != "train":
            return images.as_stored()  # evaluation goes from the first chunk to the last
        return images

    def _batches(self, images: ImageSet, **settings: Any) -> ShardedBatches:
        assert isinstance(images, StreamedImages)
        interleave = self.interleave if settings.get("shuffle") else 1
        self._check_room(images.shards, interleave)
        return ChunkedBatches(images.chunk_of, self.batch_size, interleave, **settings)

    def _check_room(self, shards: Shards, interleave: int) -> None:
        largest = max(chunk.size for chunk in shards.chunks)
        needed = min(2 * interleave, len(shards.chunks)) * largest
        limit = self.cache_limit
        if shards.cache is not None and limit is not None and limit < needed:
            raise InputError(
                f"data.max_cache_size: {limit / 1e6:,.3g} MB have no room for {needed / 1e6:,.3g}: "
                f"the chunks read at once (data.interleave={interleave}), and as many ahead"
            )


def _bytes(size: str) -> int:
    """`200GB` in bytes."""
    number, unit = size[:-2].strip(), size[-2:].upper()
    if unit not in _UNITS or not number.replace(".", "", 1).isdigit():
        raise InputError(f"data.max_cache_size={size}: a size such as 200GB is expected")
    return int(float(number) * _UNITS[unit])
