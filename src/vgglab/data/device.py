"""To the device one batch ahead, by a copy or by a gather from a set that lives there."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from vgglab.data.batches import Batch
from vgglab.data.images import ImageSet, TensorImages
from vgglab.errors import InputError

OnDevice = Literal["auto", True, False]

_MAX_BYTES = 1 << 30  # of a set that nobody asked to be there; CIFAR's takes an eighth


class SideStream:
    """Brings batches to a GPU on a stream of its own: the copy runs while the network computes.

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
        """Begin with a loader's batch, and wait for nothing."""
        with torch.cuda.stream(self.stream):
            placed = self.place(batch)
            # Of its own, because waiting for the stream would wait for the batch after it.
            return placed, self.stream.record_event()

    def finish(self, begun: tuple[Any, torch.cuda.Event]) -> Any:
        """The batch, which later work may use: `begun` is what `begin` gave."""
        placed, arrived = begun
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(arrived)
        for value in placed:
            if isinstance(value, Tensor) and value.is_cuda:
                value.record_stream(stream)  # or the memory could be the next copy's too early
        return placed


def one_ahead(batches: Iterator[Any], stream: SideStream) -> Iterator[tuple[Any, Any]]:
    """Each batch as the loader made it and as it is on the device, once the next one has begun.

    An error in making the next one waits until the present one has been handed out.
    """
    begun: deque[tuple[Any, Any]] = deque()

    def finish() -> tuple[Any, Any]:
        batch, there = begun.popleft()
        return batch, stream.finish(there)

    try:
        for batch in batches:
            begun.append((batch, stream.begin(batch)))
            if len(begun) > 1:
                yield finish()
    except Exception:
        if begun:
            yield finish()
        raise
    if begun:
        yield finish()


def copy_to(batch: Any, device: torch.device) -> Any:
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
        self.without_pixels = images.without_pixels()
        """The same set for a loader."""

    def __call__(self, batch: Batch) -> Batch:
        """A batch of `without_pixels` on the device, its images from here: one gather."""
        batch = copy_to(batch, self.images.device)
        return batch._replace(images=self.images.index_select(0, batch.indices))


class Residents:
    """The sets of a process that live on its GPU. They stay there: loaders come and go.

    Args:
        on_device: which do. `auto`: those in one tensor of up to 1 GiB.
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
        """The set on the GPU. None: it does not live there, or the device is none.

        Raises:
            InputError: it was to live on a device that is neither a CPU nor of CUDA.
        """
        if not isinstance(images, TensorImages) or self.on_device is False:
            return None
        if self.on_device is True and device.type not in ("cpu", "cuda"):
            raise InputError(f"data.on_device=true is for CUDA devices, and this is {device.type}")
        is_large = images.images.nbytes > _MAX_BYTES
        if device.type != "cuda" or (is_large and self.on_device == "auto"):
            return None
        if (images, device) not in self._kept:
            self._kept[images, device] = Resident(images, device)
        return self._kept[images, device]
