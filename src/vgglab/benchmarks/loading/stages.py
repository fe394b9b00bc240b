"""Where the time of loading goes: some images, stage by stage, on one core of this process.

The stages are those that training runs, in the same order, on the same images for both sides. A
loader's workers do the first three at the same time as the network trains.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from vgglab.benchmarks.clock import wait_for
from vgglab.benchmarks.loading.reference import ReferenceImages
from vgglab.data import ImageDataModule
from vgglab.data.batches import Batch, BatchView, Source, empty_batch, label
from vgglab.data.encoded import AnyBatchMaker, EncodedBatchMaker
from vgglab.data.images import EncodedImages, ImageSet
from vgglab.data.resampling import write_cut
from vgglab.data.sampling import BatchKeys
from vgglab.errors import BrokenImageError

STAGES = ("read", "decode", "crop", "transfer", "network input")
"""From the storage, by the decoder, into the batch's uint8 pixels, to the device, and there to what
the network sees. The reference's `crop` mirrors too; vgglab mirrors on the device. A GPU that
decodes (`data.decode=cuda`) crops in the same stage. Images in memory have no first two."""

Result = TypeVar("Result")


class Laps:
    """Adds up seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, stage: str, do: Callable[[], Result]) -> Result:
        begun = time.perf_counter()
        result = do()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begun
        return result

    def milliseconds(self, images: int) -> dict[str, float]:
        """Of one image."""
        return {stage: 1000 * seconds / images for stage, seconds in self.seconds.items()}


def measure_stages(
    data: ImageDataModule, images: ImageSet, maker: AnyBatchMaker | None, device: torch.device
) -> tuple[dict[str, float], dict[str, float]]:
    """vgglab's and the reference's milliseconds an image.

    Args:
        data: the source.
        images: which to load. They are read once, for both.
        maker: what makes batches of them, if they are files.
        device: the network's.
    """
    ours, theirs = Laps(), Laps()
    reference = ReferenceImages(images, data)
    if isinstance(images, EncodedImages):
        assert maker is not None
        contents = [ours.time("read", partial(reference.read, i)) for i in range(len(images))]
        theirs.seconds["read"] = ours.seconds["read"]
        batch = _make_batch(ours, maker, images, contents, device)
        pictures = (theirs.time("decode", partial(reference.open, c)) for c in contents)
        crops = [theirs.time("crop", partial(reference.transform, p)) for p in pictures]
    else:
        keys = BatchKeys(0, list(range(len(images))))
        batch = ours.time("crop", lambda: BatchView(images)[keys])
        crops = [theirs.time("crop", partial(reference.__getitem__, i))[0] for i in keys.images]
    _finish(ours, batch.images, device, lambda pixels: _input(data, batch, pixels))
    stacked = theirs.time("crop", lambda: torch.stack(crops))
    _finish(theirs, stacked, device, data.preprocessing.normalize)
    return ours.milliseconds(len(images)), theirs.milliseconds(len(images))


def _make_batch(
    laps: Laps,
    maker: AnyBatchMaker,
    images: EncodedImages,
    contents: list[bytes],
    device: torch.device,
) -> Batch:
    sources = [
        Source(i, int(images.labels[i]), images.name(i), partial(bytes, content))
        for i, content in enumerate(contents)
    ]
    if isinstance(maker, EncodedBatchMaker):
        return laps.time("decode", lambda: _decode(maker, sources, device))
    size, channels = maker.cropping.size, maker.cropping.channels
    pixels = laps.time("crop", lambda: empty_batch(len(sources), channels, size))
    for slot, (source, numbers) in enumerate(maker.draw(sources, 0)):
        try:
            image, cut = laps.time("decode", partial(maker.decode, source, numbers))
        except BrokenImageError:
            if maker.on_error == "raise":
                raise
        else:
            laps.time("crop", partial(write_cut, image[None], cut, pixels[slot : slot + 1]))
    return label(pixels, sources, 0, maker.seed, ())


def _decode(maker: EncodedBatchMaker, sources: list[Source], device: torch.device) -> Batch:
    batch = maker.decode(maker(sources, 0), device)
    wait_for(device)
    return batch


def _finish(
    laps: Laps, images: Tensor, device: torch.device, make_input: Callable[[Tensor], Any]
) -> None:
    moved = laps.time("transfer", lambda: _wait_after(images.to(device), device))
    laps.time("network input", lambda: _wait_after(make_input(moved), device))


def _wait_after(result: Result, device: torch.device) -> Result:
    wait_for(device)
    return result


def _input(data: ImageDataModule, batch: Batch, pixels: Tensor) -> Any:
    indices = batch.indices.to(pixels.device)
    return data.network_input(
        batch._replace(images=pixels, indices=indices, labels=batch.labels.to(pixels.device)),
        augment=data.augment,
    )
