"""`data.decode=cuda`: batches that travel as JPEG files, decoded and cut by the GPU.

A worker reads the files and draws the cuts. What a GPU decodes otherwise than a CPU, or not at all
(CMYK, turned by EXIF, no JPEG, without an end), it decodes and cuts itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from vgglab.data.batches import (
    Batch,
    BatchMaker,
    Source,
    empty_batch,
    label,
    replace_broken,
)
from vgglab.data.cropping import Cut
from vgglab.data.decoding import checked_jpeg, decode_bytes
from vgglab.data.headers import JPEG, is_complete
from vgglab.data.resampling import write_cut
from vgglab.data.transforms import with_channels
from vgglab.errors import BrokenImageError, InputError


class EncodedBatch(NamedTuple):
    """A batch of which K images are JPEG files and M are cut already, on the CPU."""

    batch: Batch
    """Its `images` are the M, (M, C, H, W); everything else is of all."""
    pixel_slots: Tensor
    """(M,) int64, the places of those in the batch."""
    broken_slots: Tensor
    """int64, the places of the images that are known to be broken."""
    data: Tensor
    """(bytes,) uint8, the K files one after another."""
    ends: Tensor
    """(K,) int64, where in `data` each one ends."""
    cuts: Tensor
    """(K, 10) float64, the numbers of each `Cut`."""
    slots: Tensor
    """(K,) int64, the places of these images in the batch."""
    names: tuple[str, ...]
    """Of the K files, for messages."""

    @property
    def indices(self) -> Tensor:
        """(N,) int64, indices in the set."""
        return self.batch.indices


@dataclass(frozen=True)
class EncodedBatchMaker:
    """Makes the batches of `maker` in two steps: a worker reads, and the device decodes."""

    maker: BatchMaker

    def __call__(self, sources: Sequence[Source], epoch: int) -> EncodedBatch:
        """
        Raises:
            InputError: an image cannot be read.
        """
        maker = self.maker
        files: list[tuple[int, bytes, Cut]] = []
        pixel_slots: list[int] = []
        broken: dict[int, str] = {}
        pixels = empty_batch(len(sources), maker.cropping.channels, maker.cropping.size)
        for slot, (source, numbers) in enumerate(maker.draw(sources, epoch)):
            try:
                data = source.read()
                cut = self._cut_on_device(data, source.name, numbers)
                if cut is not None:
                    files.append((slot, data, cut))
                    continue
                place = pixels[len(pixel_slots) : len(pixel_slots) + 1]
                maker.fill(place, _held(source, data), numbers)
                pixel_slots.append(slot)
            except BrokenImageError as error:
                if maker.on_error == "raise":
                    raise
                broken[slot] = str(error)
        lengths = torch.tensor([len(data) for _, data, _ in files], dtype=torch.int64)
        pixels = pixels[: len(pixel_slots)]
        return EncodedBatch(
            label(pixels, sources, epoch, maker.seed, tuple(broken.values())),
            pixel_slots=torch.tensor(pixel_slots, dtype=torch.int64),
            broken_slots=torch.tensor(list(broken), dtype=torch.int64),
            data=_packed([data for _, data, _ in files]),
            ends=lengths.cumsum(0),
            cuts=torch.tensor([cut for _, _, cut in files], dtype=torch.float64).view(-1, 10),
            slots=torch.tensor([slot for slot, _, _ in files], dtype=torch.int64),
            names=tuple(sources[slot].name for slot, _, _ in files),
        )

    def _cut_on_device(self, data: bytes, name: str, numbers: Sequence[float]) -> Cut | None:
        """None: the image is one for the CPU."""
        if not data.startswith(JPEG):
            return None
        header = checked_jpeg(data, name)
        if not (header.is_plain and is_complete(data)):
            return None
        return self.maker.cropping.cut(header.height, header.width, numbers)

    def decode(self, made: EncodedBatch, device: torch.device) -> Batch:
        """The batch with all its tensors on `device`, decoded and cut there.

        On the CPU it equals that of `maker`. A GPU's decoder rounds otherwise, and so does its
        resizing: some grey levels.

        Raises:
            InputError: an image is broken, or with `on_error=skip` all of a training batch.
        """
        batch = made.batch
        channels, height, width = batch.images.shape[1:]
        images = torch.empty(
            (len(batch.labels), height, width, channels), dtype=torch.uint8, device=device
        ).permute(0, 3, 1, 2)
        images[made.pixel_slots.to(device)] = batch.images.to(device)
        broken, skipped = made.broken_slots.tolist(), list(batch.skipped)
        found = _decode_files(made, device)
        for slot, cut, image in zip(made.slots.tolist(), made.cuts.tolist(), found, strict=True):
            if isinstance(image, BrokenImageError):
                if self.maker.on_error == "raise":
                    raise image
                broken.append(slot)
                skipped.append(str(image))
            else:
                place = images[slot : slot + 1]
                write_cut(with_channels(image, channels)[None], _cut(cut), place)
        batch = batch._replace(images=images, skipped=tuple(skipped))
        batch = replace_broken(batch, broken, self.maker.training)
        return batch._replace(labels=batch.labels.to(device), indices=batch.indices.to(device))


AnyBatchMaker = BatchMaker | EncodedBatchMaker


def check_cuda(device: torch.device) -> None:
    """
    Raises:
        InputError: `data.decode=cuda` on another device.
    """
    if device.type != "cuda":
        raise InputError(
            f"data.decode=cuda needs a CUDA device, and the run is on {device.type}; "
            "torchvision and simplejpeg decode on the CPU"
        )


def _packed(files: Sequence[bytes]) -> Tensor:
    """(bytes,) uint8."""
    data = bytearray().join(files)
    return torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def _held(source: Source, data: bytes) -> Source:
    """The source, which has been read."""
    return replace(source, read=lambda: data)


def _cut(numbers: list[float]) -> Cut:
    top, left, height, width = numbers[:4]
    return Cut(top, left, height, width, *(int(number) for number in numbers[4:]))


def _decode_files(batch: EncodedBatch, device: torch.device) -> list[Tensor | BrokenImageError]:
    """Each (3, H, W) uint8 on the device, or what is wrong with it."""
    files = list(batch.data.tensor_split(batch.ends[:-1])) if len(batch.ends) else []
    try:
        return list(_decode(files, device))
    except RuntimeError:  # of one of them, which one is not said
        return [_decode_alone(*file, device) for file in zip(files, batch.names, strict=True)]


def _decode(files: list[Tensor], device: torch.device) -> list[Tensor]:
    return decode_jpeg(files, mode=ImageReadMode.RGB, device=device) if files else []


def _decode_alone(file: Tensor, name: str, device: torch.device) -> Tensor | BrokenImageError:
    try:
        return _decode([file], device)[0]
    except RuntimeError:
        pass
    try:
        return decode_bytes(file.numpy().tobytes(), name).to(device)
    except BrokenImageError as error:
        return error
