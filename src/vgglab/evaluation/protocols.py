"""How a network is tested: the protocols of sections 3.2 and 4 of the paper."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn.functional import nll_loss
from torchvision.transforms.v2 import functional

from vgglab.config.jobs import EvaluationProtocol
from vgglab.data.images import ImageSet
from vgglab.data.transforms import Preprocessing
from vgglab.errors import InputError
from vgglab.evaluation.batching import shape_batches
from vgglab.evaluation.metrics import Score
from vgglab.networks import VGG, DenseVGG, to_dense

GRID = 5  # crops a side of the regular grid: 25, and with their mirror images 50 a scale


@dataclass(frozen=True)
class Member:
    """One network of an evaluation: several are fused, as in Table 6."""

    network: nn.Module
    """(N, C, H, W) float to logits (N, classes)."""
    preprocessing: Preprocessing
    scales: Sequence[int]
    """The test scales Q that it sees: shortest sides, pixels."""


def posteriors(
    members: Sequence[Member],
    images: ImageSet,
    protocol: EvaluationProtocol,
    *,
    device: torch.device,
    precision: str = "32-true",
    batch_size: int,
    num_workers: int = 0,
    skipped: dict[int, str] | None = None,
) -> Tensor:
    """The soft-max outputs, averaged over networks, scales, crops and mirror images, in one pass.

    An image is decoded once and resized once to each scale; every network normalises it in its own
    way. What a network sees of an image at one scale is the protocol's (sections 3.2 and 4):

    - `center_crop`: the crop of the network's size in the middle, not mirrored.
    - `dense`: the whole image by the fully convolutional form, the class score map averaged over
      its positions before the soft-max; the image and its mirror image.
    - `multi_crop`: the crops of a regular 5x5 grid and their mirror images, 50.
    - `dense_multi_crop`: the mean of the last two.

    Args:
        members: at least one; their classes are the same. The networks are moved to the device and
            put into evaluation mode.
        images: of any sizes.
        protocol: see above.
        device: where to compute.
        precision: as Lightning names it; the soft-max and all means are in float32.
        batch_size: see `shape_batches`; of crops, at most so many at a time.
        num_workers: loader processes.
        skipped: where given, it is filled with the images that cannot be read: see `shape_batches`.

    Returns:
        (len(images), classes) float32 on the CPU; rows sum to 1, those of skipped images are NaN.

    Raises:
        InputError: a scale is too small for the network or its crop, a network has no dense form,
            the networks differ in channels, or an image cannot be read (with `skipped` none can),
            or an output is not finite.
    """
    check_members(members, protocol)
    answers: list[Callable[[Tensor], Tensor]] = [
        getattr(_Tester(member, device, precision, batch_size), protocol) for member in members
    ]
    batches = shape_batches(
        images,
        sorted({scale for member in members for scale in member.scales}),
        channels=members[0].preprocessing.channels,
        batch_size=batch_size,
        num_workers=num_workers,
        description=protocol,
        skipped=skipped,
    )
    sums: list[Tensor] = []  # one, as soon as the number of classes is known
    with torch.inference_mode(), closing(batches):
        for batch in batches:
            pixels = _to_device(batch.images, device)
            indices = _to_device(batch.indices, device)
            for member, answer in zip(members, answers, strict=True):
                if batch.scale not in member.scales:
                    continue
                posterior = answer(member.preprocessing.normalize(pixels))
                if not sums:
                    sums.append(torch.zeros(len(images), posterior.shape[1], device=device))
                sums[0][indices] += posterior / (len(members) * len(set(member.scales)))
    if not sums:
        raise InputError(f"none of the {len(images):,} images can be read")
    seen = torch.ones(len(images), dtype=torch.bool)
    seen[list(skipped or ())] = False
    found = sums[0].cpu()
    if not found[seen].isfinite().all():
        raise InputError(
            f"a network's outputs are not finite at precision={precision}: it overflows there, or "
            "its training diverged"
        )
    return found.where(seen[:, None], torch.nan)


def score(posteriors: Tensor, labels: Tensor) -> dict[str, float]:
    """Measure averaged posteriors.

    Args:
        posteriors: (N, classes), rows sum to 1; those that are NaN are left out.
        labels: (N,) int64.

    Returns:
        `test/top1`, `test/top5` (0 to 1) and `test/loss`: the mean of -log(the label's posterior),
        nats. A posterior of zero counts as float32's smallest normal number, 87 nats.
    """
    seen = ~posteriors.isnan().any(1)
    posteriors, labels = posteriors[seen], labels[seen]
    log_posteriors = posteriors.clamp(min=torch.finfo(torch.float32).tiny).log()
    counted = Score(posteriors.shape[1], "test")
    counted.update(posteriors, labels, nll_loss(log_posteriors, labels))
    return {name: float(value) for name, value in counted.finish().items()}


def paper_scales(preprocessing: Preprocessing, several: bool) -> list[int]:
    """The paper's test scales Q for a network's training scale S (section 4), pixels.

    One: Q = S, or the mean of Smin and Smax after scale jitter. Several: {S - 32, S, S + 32}, or
    {Smin, mean, Smax}. The 32 is for an input of 224; another input has a seventh of it too. A
    network that was trained without isotropic rescaling has the S of its evaluation.
    """
    shortest = min(preprocessing.size)
    fixed = preprocessing.resize or shortest
    smallest, largest = preprocessing.train_scale or (fixed, fixed)
    mean = (smallest + largest) // 2
    if not several:
        return [mean]
    if smallest == largest:
        smallest, largest = mean - shortest // 7, mean + shortest // 7
    return [smallest, mean, largest]


def passes(protocol: EvaluationProtocol, scales: int) -> str:
    """What one network sees of one image at so many scales, in words: `150 crops`."""
    crops = {"center_crop": 1, "dense": 0}.get(protocol, 2 * GRID**2) * scales
    wholes = 2 * scales if "dense" in protocol else 0
    found = {"crop" if crops == 1 else "crops": crops, "whole images": wholes}
    return " and ".join(f"{count} {what}" for what, count in found.items() if count)


def check_members(members: Sequence[Member], protocol: EvaluationProtocol) -> None:
    """Refuse what cannot work, before anything is downloaded or decoded.

    Raises:
        InputError: as `posteriors`, but for the images.
    """
    if len({member.preprocessing.channels for member in members}) > 1:
        raise InputError("networks for grey and for RGB images cannot be fused")
    for member in members:
        needed = smallest_scale(member, protocol)
        if min(member.scales) < needed:
            raise InputError(
                f"scales={list(member.scales)}: {min(member.scales)} is too small, "
                f"protocol={protocol} of this network needs a shortest side of at least {needed} "
                "pixels"
            )


def smallest_scale(member: Member, protocol: EvaluationProtocol) -> int:
    """The smallest shortest side that a network can take under a protocol, pixels.

    Raises:
        InputError: the protocol needs a dense form, which this network does not have.
    """
    smallest_crop, network = min(member.preprocessing.size), member.network
    if "dense" not in protocol:
        return smallest_crop
    if not isinstance(network, VGG):
        raise InputError(
            f"protocol={protocol} needs the dense form of a VGG, and {type(network).__name__} has "
            "none; use center_crop or multi_crop"
        )
    smallest_image = to_dense(network).smallest_image
    return smallest_image if protocol == "dense" else max(smallest_image, smallest_crop)


class _Tester:
    """One network under the protocols; each takes normalised images (N, C, h, w) on the device and
    returns their posteriors (N, classes)."""

    def __init__(
        self, member: Member, device: torch.device, precision: str, batch_size: int
    ) -> None:
        self.network = member.network.to(device).to(memory_format=torch.channels_last).eval()
        self.size = member.preprocessing.size
        self.device = device
        self.precision = precision
        self.batch_size = batch_size

    @cached_property
    def dense_network(self) -> DenseVGG:
        assert isinstance(self.network, VGG)
        return to_dense(self.network).to(memory_format=torch.channels_last)

    def center_crop(self, images: Tensor) -> Tensor:
        _check_crop(images, self.size)
        crops = functional.center_crop(images, list(self.size))
        return self._logits(self.network, crops).softmax(1)

    def dense(self, images: Tensor) -> Tensor:
        views = (images, images.flip(-1))
        # Positions are averaged before the soft-max, the mirror image after it (section 3.2).
        maps = [self._logits(self.dense_network, view).mean((2, 3)) for view in views]
        return (maps[0].softmax(1) + maps[1].softmax(1)) / 2

    def multi_crop(self, images: Tensor) -> Tensor:
        _check_crop(images, self.size)
        total = torch.zeros((), device=self.device)
        for crops in _grid_crops(images, self.size, max(1, self.batch_size // len(images))):
            for view in (crops, crops.flip(-1)):
                posterior = self._logits(self.network, view).softmax(1)
                total = total + posterior.view(-1, len(images), posterior.shape[1]).sum(0)
        return total / (2 * GRID**2)

    def dense_multi_crop(self, images: Tensor) -> Tensor:
        return (self.dense(images) + self.multi_crop(images)) / 2

    def _logits(self, network: nn.Module, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        with autocast(self.precision, self.device):
            logits: Tensor = network(images)
        return logits.float()


def _grid_crops(images: Tensor, size: tuple[int, int], at_a_time: int) -> Iterator[Tensor]:
    """The 25 crops of a regular grid from edge to edge: batches (crops x N, C, *size)."""
    rows, columns = (
        [round(i * (whole - part) / (GRID - 1)) for i in range(GRID)]
        for whole, part in zip(images.shape[-2:], size, strict=True)
    )
    corners = list(product(rows, columns))
    height, width = size
    for start in range(0, len(corners), at_a_time):
        yield torch.cat(
            [
                images[..., top : top + height, left : left + width]
                for top, left in corners[start : start + at_a_time]
            ]
        )


def _check_crop(images: Tensor, size: tuple[int, int]) -> None:
    """Of a crop that is not square a side can be longer than the shortest of an image."""
    if any(whole < part for whole, part in zip(images.shape[-2:], size, strict=True)):
        shown = " x ".join(map(str, images.shape[-2:]))
        raise InputError(
            f"scales: an image of {shown} pixels is too small for the network's crop of "
            f"{size[0]} x {size[1]}; give larger scales"
        )


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":  # pinned, or this process would wait for the last batch to end
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The autocast context of a mixed precision, none for full precision."""
    dtypes = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    if precision not in dtypes:
        return nullcontext()
    return torch.autocast(device.type, dtypes[precision])


def find_device(accelerator: str) -> torch.device:
    """`auto`, `cpu`, `gpu` or `mps` as a device of this machine.

    Raises:
        InputError: there is no such device.
    """
    current = torch.accelerator.current_accelerator(check_available=True)
    if accelerator == "cpu" or (accelerator == "auto" and current is None):
        return torch.device("cpu")
    fits = current is not None and (
        accelerator == "auto" or (accelerator == "mps") == (current.type == "mps")
    )
    if current is None or not fits:
        found = "only a CPU" if current is None else current.type
        raise InputError(f"device={accelerator}: this machine has {found}")
    return current
