"""Krizhevsky's random colour shift along the principal axes of the data's own colours.

Krizhevsky et al. 2012, section 4.1; used by the VGG paper, section 3.1.
"""

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from vgglab.data.images import ImageSet
from vgglab.data.sampling import derive_seed, uniforms
from vgglab.errors import InputError
from vgglab.files import replace_file
from vgglab.progress import progress

_STREAM = 0xC01  # keeps these draws apart from those of shift, scale and mirror


@dataclass(frozen=True)
class ColourAxes:
    """The covariance of RGB pixels scaled to 0..1, as its eigenvalues and eigenvectors."""

    eigenvalues: tuple[float, ...]
    """Three, descending."""
    eigenvectors: tuple[tuple[float, ...], ...]
    """Row by row; column i belongs to eigenvalue i."""

    def shift(self, deviation: float, seed: int, epoch: int, indices: Tensor) -> Tensor:
        """One random shift an image: the axes times eigenvalues times N(0, deviation^2).

        Returns:
            (N, 3, 1, 1) float32 to be added to pixels of 0..1, on the indices' device.
        """
        flat = uniforms(derive_seed(seed, _STREAM), epoch, indices, 6)
        # Box and Muller 1958; 1 - u lies in (0, 1], where the logarithm is finite.
        normal = (-2 * (1 - flat[:, :3]).log()).sqrt() * (2 * torch.pi * flat[:, 3:]).cos()
        return (normal * deviation @ _scaled_axes(self, indices.device))[:, :, None, None]


@lru_cache
def _scaled_axes(axes: ColourAxes, device: torch.device) -> Tensor:
    """(3, 3), eigenvalue times eigenvector in row i. Kept: a GPU would wait for each copy."""
    values = torch.tensor(axes.eigenvalues)[:, None]
    return (values * torch.tensor(axes.eigenvectors).T).to(device)


# As in facebookarchive/fb.resnet.torch (datasets/imagenet.lua), 0..1; Krizhevsky's own 0..255.
IMAGENET_COLOURS = ColourAxes(
    eigenvalues=(0.2175, 0.0188, 0.0045),
    eigenvectors=(
        (-0.5675, 0.7192, 0.4009),
        (-0.5808, -0.0045, -0.8140),
        (-0.5836, -0.6948, 0.4203),
    ),
)


def colour_axes_of(images: ImageSet, *, limit: int | None = None, seed: int = 0) -> ColourAxes:
    """Principal component analysis of all pixels of RGB images.

    Args:
        images: whose `image(i)` is (3, height, width) uint8.
        limit: only so many of them, drawn at random; None takes all.
        seed: of the draw.

    Raises:
        InputError: the images are not RGB.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed))
    order = torch.randperm(len(images), generator=generator)[:limit].tolist()
    count = 0
    total, products = torch.zeros(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    with progress("colour axes", len(order), unit="images") as advance:
        for index in order:
            pixels = images.image(index).flatten(1).double() / 255
            if len(pixels) != 3:
                raise InputError("data: the colour shift is of RGB images, and these are not")
            count += pixels.shape[1]
            total += pixels.sum(1)
            products += pixels @ pixels.T
            advance(1)
    mean = total / count
    values, vectors = torch.linalg.eigh(products / count - mean.outer(mean))
    descending = values.argsort(descending=True)
    return ColourAxes(
        tuple(values[descending].clamp(min=0).tolist()),
        tuple(tuple(row) for row in vectors[:, descending].tolist()),
    )


def read_colour_axes(source: str, *, setting: str = "data.colour_axes") -> ColourAxes:
    """`imagenet`, or a file that `write_colour_axes` wrote; `setting` is for messages.

    Raises:
        InputError: no such file, or another kind of file.
    """
    if source == "imagenet":
        return IMAGENET_COLOURS
    path = Path(source).expanduser()
    try:
        if not path.is_file():  # a pipe would be waited for
            raise InputError(
                f"{setting}={source}: no such file; scripts/colour_axes.py writes it, and "
                "imagenet stands for ImageNet's"
            )
        content = json.loads(path.read_text(encoding="utf-8"))
        values = torch.tensor(content["eigenvalues"], dtype=torch.float64).reshape(3)
        vectors = torch.tensor(content["eigenvectors"], dtype=torch.float64).reshape(3, 3)
        if not (values.isfinite().all() and vectors.isfinite().all()):
            raise ValueError("a number is not finite")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{setting}={source}: not a file of colour axes") from error
    return ColourAxes(tuple(values.tolist()), tuple(tuple(row) for row in vectors.tolist()))


def write_colour_axes(axes: ColourAxes, path: Path) -> None:
    """Write the axes as JSON; the file appears when it is complete.

    Raises:
        InputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, (json.dumps(asdict(axes), indent=2) + "\n").encode())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error
