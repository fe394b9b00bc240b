"""Images in shards, in a folder or in object storage, of which a few chunks are at hand."""

import importlib.util
import logging
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from lightning.pytorch.utilities import rank_zero_only

from vgglab.data.batches import Batch, BatchView, OnError
from vgglab.data.chunk_order import ChunkedBatches, Keys
from vgglab.data.cropping import TrainCrop
from vgglab.data.decoding import Decoder
from vgglab.data.folder import Mean, Std
from vgglab.data.images import ImageSet
from vgglab.data.loading import ResumableLoader
from vgglab.data.module import Count, ImageDataModule
from vgglab.data.sampling import ShardedBatches
from vgglab.data.shards import Shards, StreamedImages
from vgglab.data.storage import MissingFileError, Storage
from vgglab.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    preprocessing_of_files,
)
from vgglab.errors import InputError

# Not Lightning's `rank_zero_info`: a run silences that logger.
_notice = rank_zero_only(logging.getLogger(__name__).warning)

_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}


class ImageStream(ImageDataModule):
    """What scripts/shard_dataset.py wrote: `uri/{train,val,test}`, read through litdata.

    Training reads a few chunks side by side, each rank its own, in an order that depends on the
    seed and the epoch alone. Chunks from object storage are kept on the local disk while there is
    room. As with `ImageFolder`, `val` is the test set where there is no `test`.

    Args:
        uri: a folder, `s3://bucket/folder` or `gs://bucket/folder`. Credentials come from where the
            provider's own tools look for them.
        endpoint: address of an S3-compatible server. None: the provider's own.
        anonymous: ask without credentials, for public buckets.
        cache_dir: where chunks are kept. None: litdata's, `LITDATA_CACHE_DIR` or
            `~/.lightning/chunks`.
        max_cache_size: of all chunks kept there, by all runs of a machine; such as `200GB`. None:
            three quarters of what is free.
        retry_seconds: how long to wait for a server that does not answer.
        interleave: chunks that are read side by side. More of them mix better, and make a process
            wait for more at its start. Those of the ranks are apart where their number divides it.
        validation: `folder` is the `val` split, `split` a part (`validation_fraction`) of the
            training images, `auto` the split where there is one and else the part.
        image_size: height and width of the network's input. None: 224.
        resize_size: the shortest side before the centre crop. None: the centre of `train_scale`,
            or without one 256/224 of `image_size`.
        crop: of training images, see `Preprocessing.cropping`. None: `random` where `train_scale`
            is set, else `random_resized`.
        decode: see `Decoder`.
        on_error: what becomes of an image that cannot be decoded, see `BatchMaker`.
        mean: per channel, of pixels scaled to 0..1. Default ImageNet's.
        std: likewise.
        **common: see `ImageDataModule`.
    """

    def __init__(
        self,
        *,
        uri: str,
        endpoint: str | None = None,
        anonymous: bool = False,
        cache_dir: str | None = None,
        max_cache_size: str | None = None,
        retry_seconds: Annotated[float, Ge(0)] = 600.0,
        interleave: Count = 16,
        validation: Literal["auto", "folder", "split"] = "auto",
        image_size: Count | None = None,
        resize_size: Count | None = None,
        crop: TrainCrop | None = None,
        decode: Decoder = "torchvision",
        on_error: OnError = "raise",
        mean: Mean = IMAGENET_MEAN,
        std: Std = IMAGENET_STD,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if importlib.util.find_spec("litdata") is None:
            raise InputError("data=imagenet_stream needs: uv sync --extra stream")
        self.cache_limit = None if max_cache_size is None else _bytes(max_cache_size)
        self.cache = Path(cache_dir).expanduser() if cache_dir else _litdata_folder()
        self.cache /= "vgglab"
        Storage(uri)  # refuses other kinds before anything is read
        self.uri = uri
        self.endpoint = endpoint
        self.anonymous = anonymous
        self.retry_seconds = retry_seconds
        self.interleave = interleave
        self.validation = validation
        self.image_size = image_size
        self.resize_size = resize_size
        self.train_crop: TrainCrop = crop or (
            "random_resized" if self.train_scale is None else "random"
        )
        self.decode = decode
        self.on_error = on_error
        self.mean = tuple(mean)
        self.std = tuple(std)
        self._shards: dict[str, Shards | MissingFileError] = {}

    @cached_property
    def classes(self) -> Sequence[str]:
        train = self.shards("train")
        found = train if train is not None else self.shards("val") or self.shards("test")
        return self._there(found, "train").description.classes

    @property
    def crop(self) -> TrainCrop:
        return self.train_crop

    @property
    def preprocessing(self) -> Preprocessing:
        return preprocessing_of_files(
            self.mean,
            self.std,
            image_size=self.image_size,
            resize_size=self.resize_size,
            train_scale=self.train_scale,
            test_scale=self.test_scale,
            crop=self.train_crop,
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
            description = storage.read("vgglab.json")
        except MissingFileError as error:
            return error
        return Shards(storage, description, self.cache, self.cache_limit)

    def _there(self, shards: Shards | None, split: str) -> Shards:
        if shards is None:
            raise InputError(
                f"data.uri={self.uri}: no shards in it, which scripts/shard_dataset.py writes "
                f"({self._shards[split]})"
            )
        return shards

    def load(self, split: str) -> ImageSet | None:
        shards = self.shards(split)
        if split == "val":
            if self.validation == "split" or (shards is None and self.validation == "auto"):
                return None
            if shards is None:
                raise InputError(f"data.validation=folder: no val split in {self.uri}")
        if split == "test" and shards is None:
            shards = self.shards("val")
            if shards is None:
                raise InputError(f"data.uri={self.uri}: no test and no val split to test on")
            _notice(
                f"{self.uri} has no test split: val is the test set"
                + ("" if self.validation == "split" else ", and the validation set too")
            )
        shards = self._there(shards, split)
        if list(shards.description.classes) != list(self.classes):
            raise InputError(f"{shards.storage.uri}: its classes are not those of train")
        images = StreamedImages(shards)
        # Evaluation goes through the chunks from the first to the last.
        return images if split == "train" else images.as_stored()

    def _loader(self, view: BatchView, batches: ShardedBatches) -> ResumableLoader:
        images = view.images
        assert isinstance(images, StreamedImages)
        interleave = self.interleave if batches.shuffle else 1
        self._check_room(images.shards, interleave)
        chunked = ChunkedBatches(batches, images.chunk_of, interleave)
        return super()._loader(_ChunkedView(images, view.make, view.seed), chunked)

    def _check_room(self, shards: Shards, interleave: int) -> None:
        largest = max(chunk.size for chunk in shards.chunks)
        needed = min(2 * interleave, len(shards.chunks)) * largest
        limit = self.cache_limit
        if shards.cache is not None and limit is not None and limit < needed:
            raise InputError(
                f"data.max_cache_size: {limit / 1e6:,.3g} MB have no room for {needed / 1e6:,.3g}: "
                f"the chunks read at once (data.interleave={interleave}), and as many ahead"
            )


class _ChunkedView(BatchView):
    """Fetches the chunks of a batch before it is made."""

    def __getitem__(self, keys: list[Any]) -> Batch:
        assert isinstance(self.images, StreamedImages)
        assert isinstance(keys, Keys)
        chunks = set(self.images.chunk_of[[key.image for key in keys]].tolist())
        self.images.shards.fetch(sorted(chunks), keys.ahead)
        return super().__getitem__(keys)


def _litdata_folder() -> Path:
    # As litdata.utilities.dataset_utilities.get_default_cache_dir, without seconds of imports.
    return Path(os.environ.get("LITDATA_CACHE_DIR") or Path.home() / ".lightning" / "chunks")


def _bytes(size: str) -> int:
    """`200GB` in bytes."""
    number, unit = size[:-2].strip(), size[-2:].upper()
    if unit not in _UNITS or not number.replace(".", "", 1).isdigit():
        raise InputError(f"data.max_cache_size={size}: a size such as 200GB is expected")
    return int(float(number) * _UNITS[unit])
