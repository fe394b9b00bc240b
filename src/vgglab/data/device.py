"""To the device one batch ahead, by a copy or by a gather from a set that lives there."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from vgglab.data.batches import Batch
from vgglab.data.images import ImageSet, TensorImages
from vgglab.errors import InputError

OnDevice = Literal["auto", True, False]

_MAX_BYTES = 1 << 30  # of a set that nobody asked to be there; CIFAR's takes an eighth


class Copier(Protocol):
    """How batches come to the device while the one before is in use."""

    def begin(self, batch: Any) -> Any:
        """Begin with a loader's batch, and wait for nothing."""

    def finish(self, begun: Any) -> Any:
        """The batch, which later work may use: `begun` is what `begin` gave."""


def one_ahead(batches: Iterator[Any], copier: Copier) -> Iterator[tuple[Any, Any]]:
    """Each batch as the loader made it and as the copier did, once the next one has begun.

    An error in making the next one waits until the present one has been handed out.
    """
    begun: deque[tuple[Any, Any]] = deque()

    def finished() -> tuple[Any, Any]:
        batch, copied = begun.popleft()
        return batch, copier.finish(copied)

    try:
        for batch in batches:
            begun.append((batch, copier.begin(batch)))
            if len(begun) > 1:
                yield finished()
    except Exception:
        if begun:
            yield finished()
        raise
    if begun:
        yield finished()


class Inline:
    """A copier that does all at once, for a device without streams."""

    def __init__(self, place: Callable[[Any], Any]) -> None:
        self.begin = place

    def finish(self, begun: Any) -> Any:
        return begun


class SideStream:
    """A copier on a CUDA stream of its own: the copy runs while the device computes.

    Args:
        device: a CUDA device.
        place: a loader's batch, its tensors in pinned memory, to one on the device; a NamedTuple
            without tensors deeper inside.
    """

    def __init__(self, device: torch.device, place: Callable[[Any], Any]) -> None:
        self.device = device
        self.place = place
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.stream.wait_stream(torch.cuda.current_stream(device))  # what `place` reads is there

    def begin(self, batch: Any) -> tuple[Any, torch.cuda.Event]:
        with torch.cuda.stream(self.stream):
            placed = self.place(batch)
            # Of its own, because waiting for the stream would wait for the batch after it.
            return placed, self.stream.record_event()

    def finish(self, begun: tuple[Any, torch.cuda.Event]) -> Any:
        placed, copied = begun
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(copied)
        for value in placed:
            if isinstance(value, Tensor) and value.is_cuda:
                value.record_stream(stream)  # or the memory could be the next copy's too early
        return placed


def copier_to(device: torch.device, place: Callable[[Any], Any]) -> Copier:
    """A side stream on CUDA; elsewhere what costs the least."""
    return SideStream(device, place) if device.type == "cuda" else Inline(place)


def copied(batch: Any, device: torch.device) -> Any:
    """A batch whose tensors are on the device; those deeper inside stay."""
    return type(batch)(
        *(v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for v in batch)
    )


class Resident:
    """A set of images that lives on the device: only indices and labels travel.

    Args:
        images: of one size, in one tensor.
        device: where a copy of them is kept.
    """

    def __init__(self, images: TensorImages, device: torch.device) -> None:
        self.images = images.images.to(device)
        self.elsewhere = images.without_pixels()
        """The same set for a loader."""

    def __call__(self, batch: Batch) -> Batch:
        """A batch of `elsewhere` on the device, its images from here: one gather."""
        batch = copied(batch, self.images.device)
        return batch._replace(images=self.images.index_select(0, batch.indices))


class Residents:
    """The sets of a process that live on its device. They stay there: loaders come and go.

    Args:
        on_device: which do. `auto`: on a CUDA device those in one tensor of up to 1 GiB.
    """

    def __init__(self, on_device: OnDevice) -> None:
        self.on_device = on_device
        self._kept: dict[tuple[ImageSet, torch.device], Resident] = {}

    def check(self, images: ImageSet) -> None:
        """Raises InputError: the set is to live on the device and cannot."""
        if self.on_device is True and not isinstance(images, TensorImages):
            raise InputError(
                "data.on_device=true needs images of one size in memory; these are read when "
                "they are needed"
            )

    def copy_of(self, images: ImageSet, device: torch.device) -> Resident | None:
        """The set on the device. None: it does not live there."""
        if not isinstance(images, TensorImages) or self.on_device is False:
            return None
        is_small = images.images.nbytes <= _MAX_BYTES
        if self.on_device == "auto" and not (device.type == "cuda" and is_small):
            return None
        if (images, device) not in self._kept:
            self._kept[images, device] = Resident(images, device)
        return self._kept[images, device]
