"""scripts/extract_features.py: images as descriptors, as in appendix B of the paper."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from vgglab.config.jobs import ExtractFeaturesConfig
from vgglab.data.images import FileImages
from vgglab.data.sources.listing import list_images
from vgglab.errors import InputError
from vgglab.evaluation.batching import ShapeBatch, shape_batches
from vgglab.evaluation.protocols import autocast, find_device
from vgglab.evaluation.trained import subject
from vgglab.features.files import Values, create_features
from vgglab.networks import VGG, DenseVGG, extract, to_dense
from vgglab.reporting.environment import open_run_folder
from vgglab.reporting.skipped import skipped_row, write_skipped
from vgglab.reporting.terminal import print_result

Combine = Literal["average", "stack"]

_ROWS = 256  # normalised at a time


def extract_features(job: ExtractFeaturesConfig) -> None:
    """Write the descriptors of a folder's images to `job.output`.

    With `on_error=skip` an image that cannot be read has no row; `skipped.json` lists it.

    Raises:
        InputError: what is given cannot be read or does not fit, or the output cannot be written.
    """
    device = find_device(job.device)
    root = Path(job.images)
    files, labels, classes = list_images(root)
    trained = subject(job.checkpoint, job.weights, job.model, job.allowed_targets)
    preprocessing = trained.preprocessing
    scales = job.scales or [preprocessing.resize or min(preprocessing.size)]
    network = _dense(trained.network, scales)
    width = descriptor_width(network) * (len(scales) if job.combine == "stack" else 1)
    known = None if labels is None else labels.numpy()
    if labels is None:
        labels = torch.zeros(len(files), dtype=torch.int64)
    images = FileImages(root, files, labels, classes or ["unknown"])
    left_out: dict[int, str] = {}
    batches = shape_batches(
        images,
        scales,
        channels=preprocessing.channels,
        batch_size=job.batch_size,
        num_workers=job.num_workers,
        description="features",
        skipped=left_out if job.on_error == "skip" else None,
    )
    output = Path(job.output)
    with (
        create_features(output, width, files, known, classes, left_out) as values,
        closing(batches),
    ):
        fill(
            values,
            batches,
            network.to(device).to(memory_format=torch.channels_last),
            preprocessing.normalize,
            scales=scales,
            combine=job.combine,
            precision=job.precision,
        )
        if len(left_out) == len(files):
            raise InputError(f"images={root}: none can be read; {left_out[0]}")
    folder = Path(job.run_dir)
    open_run_folder(folder, job.composition)
    if left_out:
        write_skipped(folder, list(left_out.values()))
    print_result(
        {},
        {
            "features": f"{len(files) - len(left_out):,} x {width:,} in {job.output}",
            **skipped_row(folder, list(left_out.values())),
            "scales": f"{', '.join(map(str, scales))} px ({job.combine})",
            "classes": f"{len(classes):,}" if classes else "none: no class folders",
            "run folder": str(folder),
        },
    )


def fill(
    values: Values,
    batches: Iterable[ShapeBatch],
    network: DenseVGG,
    normalize: Callable[[Tensor], Tensor],
    *,
    scales: Sequence[int],
    combine: Combine,
    precision: str = "32-true",
) -> None:
    """Fill a row of `values` an image.

    The paper stacks or averages the scales and L2-normalises the result. Here each scale is
    L2-normalised before that too, so that all of them count the same.

    Args:
        values: (N, D), or (N, scales x D) to stack; zeros.
        batches: every image at every scale.
        network: in evaluation mode.
        normalize: uint8 images to network input.
        scales: the batches' scales, in the order of stacking.
        combine: `average` or `stack`.
        precision: as Lightning names it.

    Raises:
        InputError: an activation is not finite.
    """
    width = descriptor_width(network)
    device = next(network.parameters()).device
    for batch in batches:
        pixels = batch.images.to(device).contiguous(memory_format=torch.channels_last)
        with autocast(precision, device):
            found = descriptors(network, normalize(pixels)).cpu()
        if not found.isfinite().all():
            raise InputError(
                f"the network's activations are not finite at precision={precision}: it overflows "
                "there, or its training diverged"
            )
        first = width * scales.index(batch.scale) if combine == "stack" else 0
        values[batch.indices.numpy(), first : first + width] += found.numpy()
    for start in range(0, len(values), _ROWS):
        rows = values[start : start + _ROWS]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True).clip(min=1e-12)


@torch.inference_mode()
def descriptors(network: DenseVGG, images: Tensor) -> Tensor:
    """Penultimate activations, averaged over positions and the horizontal flip (appendix B).

    They are fc7's after its ReLU; with the compact head, whose last map is pooled in front of its
    only dense layer, the pooled map.

    Args:
        network: in evaluation mode.
        images: (N, C, H, W) network input, sides from `network.smallest_image` up.

    Returns:
        (N, D) float32 of L2 norm 1, or 0 where every activation is 0.
    """
    # Dropout hands on what it gets in evaluation mode.
    layer = {"imagenet": "relu7", "compact": "dropout"}[network.head]
    means = [
        extract(network, seen, [layer])[layer].float().mean((2, 3))
        for seen in (images, images.flip(3))
    ]
    return nn.functional.normalize(means[0] + means[1])


def descriptor_width(network: DenseVGG) -> int:
    """D: 4096 for the paper's networks."""
    last = network.classifier[-1]
    assert isinstance(last, nn.Conv2d)
    return last.in_channels


def _dense(network: nn.Module, scales: Sequence[int]) -> DenseVGG:
    if not isinstance(network, VGG):
        raise InputError(f"features are a VGG's, but the network is a {type(network).__name__}")
    if len(set(scales)) < len(scales):
        raise InputError(f"scales={list(scales)}: one comes twice")
    dense = to_dense(network)
    if min(scales) < dense.smallest_image:
        raise InputError(
            f"scales={list(scales)}: the smallest side that this network takes is "
            f"{dense.smallest_image}"
        )
    return dense
