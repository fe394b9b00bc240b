"""What a loader yields, batches of uint8 images, and how they are made from image files."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from vgglab.data.cropping import Cropping, Cut
from vgglab.data.decoding import CpuDecoder, checked_jpeg, decode_bytes
from vgglab.data.headers import JPEG
from vgglab.data.images import EncodedImages, ImageSet, TensorImages
from vgglab.data.resampling import write_cut
from vgglab.data.sampling import BatchKeys, derive_seed, uniforms
from vgglab.data.transforms import with_channels
from vgglab.data.turbo import decode_reduced
from vgglab.errors import BrokenImageError, InputError

OnError = Literal["raise", "skip"]

_CROP_STREAM = 0xC12  # keeps the draws of the crop apart from those of mirror and colour


class Batch(NamedTuple):
    """What a loader yields and what travels to the device."""

    images: Tensor
    """(N, C, H, W) uint8."""
    labels: Tensor
    """(N,) int64."""
    indices: Tensor
    """(N,) int64, indices in the set."""
    epoch: int
    mix_seed: int
    """Of what is drawn for the batch as a whole, MixUp and CutMix; from its epoch and images."""
    skipped: tuple[str, ...] = ()
    """One line for each image that could not be read."""


@dataclass(frozen=True)
class Source:
    """One image of a batch that is to be made."""

    index: int
    """In its set."""
    label: int
    name: str
    """For messages."""
    read: Callable[[], bytes]
    """Gives the content of an image file; raises as `EncodedImages.read`."""


@dataclass(frozen=True)
class BatchMaker:
    """Makes batches from encoded images: decode, cut, and into the batch.

    Which cut an image gets depends on (seed, epoch, index) and on nothing else, as the batched
    augmentation does: not on the worker, the rank or a resume.
    """

    cropping: Cropping
    seed: int = 0
    decoder: CpuDecoder = "torchvision"
    on_error: OnError = "raise"
    """`skip`: in training an image that cannot be read is replaced by the good one before it in the
    batch (or the first one), so that shapes stay; in evaluation it is left out."""
    training: bool = True

    def __call__(self, sources: Sequence[Source], epoch: int) -> Batch:
        """One batch; its images are channels-last.

        Raises:
            InputError: an image cannot be read, or with `skip` none of a training batch.
        """
        images = empty_batch(len(sources), self.cropping.channels, self.cropping.size)
        broken: dict[int, str] = {}
        for slot, (source, numbers) in enumerate(self.draw(sources, epoch)):
            try:
                self.fill(images[slot : slot + 1], source, numbers)
            except BrokenImageError as error:
                if self.on_error == "raise":
                    raise
                broken[slot] = str(error)
        batch = label(images, sources, epoch, self.seed, tuple(broken.values()))
        return replace_broken(batch, list(broken), self.training)

    def draw(self, sources: Sequence[Source], epoch: int) -> list[tuple[Source, list[float]]]:
        """Each source with the random numbers of its cut."""
        indices = torch.tensor([source.index for source in sources], dtype=torch.int64)
        seed = derive_seed(self.seed, _CROP_STREAM)
        numbers = uniforms(seed, epoch, indices, self.cropping.draws)
        return list(zip(sources, numbers.tolist(), strict=True))

    def fill(self, place: Tensor, source: Source, numbers: Sequence[float]) -> None:
        """Decode and cut one image into `place`, (1, C, H, W)."""
        image, cut = self.decode(source, numbers)
        write_cut(image[None], cut, place)

    def decode(self, source: Source, numbers: Sequence[float]) -> tuple[Tensor, Cut]:
        """One image, (C, H, W) uint8, perhaps decoded at a reduced size, and its cut."""
        data, cropping = source.read(), self.cropping
        image, factor = None, 1
        if self.decoder == "simplejpeg" and data.startswith(JPEG):
            header = checked_jpeg(data, source.name)
            if header.is_plain:
                cut = cropping.cut(header.height, header.width, numbers)
                factor = cut.reduction
                image = decode_reduced(data, header.size, factor)
        if image is None:  # torchvision turns it upright, or says what is wrong with it
            image, factor = decode_bytes(data, source.name), 1
            cut = cropping.cut(image.shape[1], image.shape[2], numbers)
        return with_channels(image, cropping.channels), cut.of_reduced(factor)


@dataclass
class BatchView(Dataset[Any]):
    """An image set as a loader sees it: keys in, a batch out."""

    images: ImageSet
    make: Callable[[Sequence[Source], int], Any] | None = None
    """Makes the batches of `EncodedImages`: a `BatchMaker`, or an `EncodedBatchMaker`, whose
    batches the device decodes. Images in one tensor need none."""
    seed: int = 0
    """Of what is drawn for a batch as a whole, where no `make` does it."""

    def __getitem__(self, keys: BatchKeys) -> Any:
        images, epoch = self.images, keys.epoch
        images.prepare(keys)
        if isinstance(images, EncodedImages) and self.make is not None:
            return self.make([_source(images, index) for index in keys.images], epoch)
        if not isinstance(images, TensorImages):
            raise TypeError(f"{type(images).__name__} cannot be put into batches without `make`")
        indices = torch.tensor(keys.images)
        seed = _mix_seed(self.seed, epoch, indices)
        pixels = images.images.index_select(0, indices)  # 15 times as fast as images[indices]
        return Batch(pixels, images.labels[indices], indices, epoch, seed)


def _source(images: EncodedImages, index: int) -> Source:
    return Source(index, int(images.labels[index]), images.name(index), partial(images.read, index))


def _mix_seed(seed: int, epoch: int, indices: Tensor) -> int:
    return derive_seed(seed, epoch, *indices[:2].tolist())


def label(
    images: Tensor, sources: Sequence[Source], epoch: int, seed: int, skipped: tuple[str, ...]
) -> Batch:
    """The batch of `images`, one for each source."""
    labels = torch.tensor([source.label for source in sources], dtype=torch.int64)
    indices = torch.tensor([source.index for source in sources], dtype=torch.int64)
    return Batch(images, labels, indices, epoch, _mix_seed(seed, epoch, indices), skipped)


def replace_broken(batch: Batch, broken: Sequence[int], training: bool) -> Batch:
    """The batch without its broken slots: left out, or in training filled with good images.

    Raises:
        InputError: none of a training batch is good.
    """
    if not broken:
        return batch
    slots = range(len(batch.labels))
    good = [slot for slot in slots if slot not in set(broken)]
    if training and not good:
        raise InputError(
            f"all {len(broken)} images of a batch are broken (data.on_error=skip); "
            f"one of them: {batch.skipped[0]}"
        )
    if training:
        good = [max((g for g in good if g <= slot), default=good[0]) for slot in slots]
    chosen = torch.tensor(good, dtype=torch.int64)
    there = chosen.to(batch.images.device)
    return batch._replace(
        images=batch.images[there], labels=batch.labels[chosen], indices=batch.indices[chosen]
    )


def empty_batch(n: int, channels: int, size: tuple[int, int]) -> Tensor:
    """(n, channels, *size) uint8, channels-last; in a worker in the memory that processes share.

    There the batch needs no copy to get to the training process, as in torch's `default_collate`.
    """
    shape = (n, *size, channels)
    if n == 0 or get_worker_info() is None:
        pixels = torch.empty(shape, dtype=torch.uint8)
    else:
        storage = torch.UntypedStorage._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]
        pixels = torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
    return pixels.permute(0, 3, 1, 2)
