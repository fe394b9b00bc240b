"""`data.decode=cuda`: batches that travel as JPEG files, decoded and cut by the GPU.

A worker reads the files and draws the cuts. What a GPU decodes otherwise than a CPU, or not at all
(CMYK, turned by EXIF, no JPEG, without an end), it decodes and cuts itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from vgglab.data.batches import (
    Batch,
    BatchMaker,
    OnError,
    Source,
    empty_batch,
    labelled,
    repaired,
)
from vgglab.data.cropping import Cropping, Cut
from vgglab.data.decoding import Decoder, checked_jpeg, decode_bytes
from vgglab.data.headers import JPEG, is_complete
from vgglab.data.resampling import write_cut
from vgglab.data.transforms import with_channels
from vgglab.data.turbo import check_simplejpeg
from vgglab.errors import InputError


class EncodedBatch(NamedTuple):
    """A batch of which K images are JPEG files and M are cut already; `decoded` makes a `Batch`.

    It stays on the CPU until then.
    """

    data: Tensor
    """(bytes,) uint8, the K files one after another."""
    ends: Tensor
    """(K,) int64, where in `data` each one ends."""
    cuts: Tensor
    """(K, 10) float64, the numbers of each `Cut`."""
    slots: Tensor
    """(K,) int64, the places of these images in the batch."""
    pixels: Tensor
    """(M, C, H, W) uint8, channels-last."""
    pixel_slots: Tensor
    """(M,) int64, the places of those."""
    broken_slots: Tensor
    """int64, the places of the images that are known to be broken."""
    labels: Tensor
    """(N,) int64."""
    indices: Tensor
    """(N,) int64, indices in the set."""
    epoch: int
    seed: int
    skipped: tuple[str, ...]
    """One line for each image that is known to be broken."""
    names: tuple[str, ...]
    """Of the K files, for messages."""
    on_error: OnError
    training: bool


@dataclass(frozen=True)
class EncodedBatchMaker(BatchMaker):
    """A `BatchMaker` that leaves the decoding to the device: it makes `EncodedBatch`es."""

    def __call__(self, sources: Sequence[Source], epoch: int) -> Any:
        """
        Raises:
            InputError: an image cannot be read.
        """
        files: list[tuple[int, bytes, Cut]] = []
        cut_slots: list[int] = []
        broken: dict[int, str] = {}
        pixels = empty_batch(len(sources), self.cropping.channels, self.cropping.size)
        for slot, (source, numbers) in enumerate(self.drawn(sources, epoch)):
            try:
                data = source.read()
                cut = self._cut_on_device(data, source.name, numbers)
                if cut is not None:
                    files.append((slot, data, cut))
                    continue
                place = pixels[len(cut_slots) : len(cut_slots) + 1]
                self._fill(place, _held(source, data), numbers)
                cut_slots.append(slot)
            except InputError as error:
                if self.on_error == "raise":
                    raise
                broken[slot] = str(error)
        lengths = torch.tensor([len(data) for _, data, _ in files], dtype=torch.int64)
        made = labelled(pixels, sources, epoch, self.seed, tuple(broken.values()))
        return EncodedBatch(
            _packed([data for _, data, _ in files]),
            lengths.cumsum(0),
            torch.tensor([cut for _, _, cut in files], dtype=torch.float64).view(-1, 10),
            torch.tensor([slot for slot, _, _ in files], dtype=torch.int64),
            pixels[: len(cut_slots)],
            torch.tensor(cut_slots, dtype=torch.int64),
            torch.tensor(list(broken), dtype=torch.int64),
            *(made.labels, made.indices, epoch, made.seed, made.skipped),
            tuple(sources[slot].name for slot, _, _ in files),
            self.on_error,
            self.training,
        )

    def _cut_on_device(self, data: bytes, name: str, numbers: Sequence[float]) -> Cut | None:
        """None: the image is one for the CPU."""
        if not data.startswith(JPEG):
            return None
        header = checked_jpeg(data, name)
        if not (header.is_plain and is_complete(data)):
            return None
        return self.cropping.cut(header.height, header.width, numbers)


def _packed(files: Sequence[bytes]) -> Tensor:
    """(bytes,) uint8."""
    data = bytearray().join(files)
    return torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def _held(source: Source, data: bytes) -> Source:
    """The source, which has been read."""
    return replace(source, read=lambda: data)


def batch_maker(
    cropping: Cropping, seed: int, decoder: Decoder, on_error: OnError, *, training: bool
) -> BatchMaker:
    """What makes batches by `decoder`.

    Raises:
        InputError: simplejpeg is not installed.
    """
    if decoder == "simplejpeg":
        check_simplejpeg()
    kind = EncodedBatchMaker if decoder == "cuda" else BatchMaker
    return kind(cropping, seed, decoder, on_error, training)


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


def decoded(batch: EncodedBatch, device: torch.device) -> Batch:
    """The batch with all its tensors on `device`, decoded and cut there.

    On the CPU it equals that of a plain `BatchMaker`. A GPU's decoder rounds otherwise, and so does
    its resizing: some grey levels.

    Raises:
        InputError: an image is broken, or with `on_error=skip` all of a training batch.
    """
    channels, height, width = batch.pixels.shape[1:]
    images = torch.empty(
        (len(batch.labels), height, width, channels), dtype=torch.uint8, device=device
    ).permute(0, 3, 1, 2)
    images[batch.pixel_slots.to(device)] = batch.pixels.to(device)
    broken, skipped = batch.broken_slots.tolist(), list(batch.skipped)
    found = _decoded_files(batch, device)
    for slot, cut, image in zip(batch.slots.tolist(), batch.cuts.tolist(), found, strict=True):
        if isinstance(image, InputError):
            if batch.on_error == "raise":
                raise image
            broken.append(slot)
            skipped.append(str(image))
        else:
            place = images[slot : slot + 1]
            write_cut(with_channels(image, channels)[None], _cut(cut), place)
    made = Batch(images, batch.labels, batch.indices, batch.epoch, batch.seed, tuple(skipped))
    made = repaired(made, broken, batch.training)
    return made._replace(labels=made.labels.to(device), indices=made.indices.to(device))


def _cut(numbers: list[float]) -> Cut:
    top, left, height, width = numbers[:4]
    return Cut(top, left, height, width, *(int(number) for number in numbers[4:]))


def _decoded_files(batch: EncodedBatch, device: torch.device) -> list[Tensor | InputError]:
    """Each (3, H, W) uint8 on the device, or what is wrong with it."""
    files = list(batch.data.tensor_split(batch.ends[:-1])) if len(batch.ends) else []
    try:
        return list(_decode(files, device))
    except RuntimeError:  # of one of them, which one is not said
        return [_decoded_alone(*file, device) for file in zip(files, batch.names, strict=True)]


def _decode(files: list[Tensor], device: torch.device) -> list[Tensor]:
    return decode_jpeg(files, mode=ImageReadMode.RGB, device=device) if files else []


def _decoded_alone(file: Tensor, name: str, device: torch.device) -> Tensor | InputError:
    try:
        return _decode([file], device)[0]
    except RuntimeError:
        pass
    try:
        return decode_bytes(file.numpy().tobytes(), name).to(device)
    except InputError as error:
        return error
