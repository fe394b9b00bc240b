"""From stored images to what the network sees in evaluation."""

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from vgglab.data.cropping import (
    AREA,
    CentreCropping,
    Cropping,
    RandomCropping,
    RandomResizedCropping,
    TrainCrop,
)
from vgglab.data.resampling import cut_out

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # torchvision's, of images scaled to 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes network input in evaluation. Stored in every checkpoint."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    """Height and width of the network's input, pixels."""
    resize: int | None = None
    """The shortest side before the centre crop, pixels. None: images already have `size`."""
    train_scale: tuple[int, int] | None = None
    """The smallest and largest shortest side in training, pixels: the paper's S (section 3.1).
    None: images were not rescaled isotropically."""

    @property
    def channels(self) -> int:
        return len(self.mean)

    def fit(self, image: Tensor) -> Tensor:
        """Resize and centre-crop images of any size: (..., C, H, W) uint8 to (channels, *size).

        Grey images become RGB and RGB images grey when the network wants the other.
        """
        return cut_out(
            with_channels(image, self.channels), self.cropping("none").cut(*image.shape[-2:])
        )

    def cropping(self, kind: TrainCrop, area: tuple[float, float] = AREA) -> Cropping:
        """How images of any size become `size`.

        `random_resized`: torchvision's reference, of a share of the area from `area`. `random`: the
        paper's section 3.1, the shortest side resized to S, drawn anew for each image where the
        training scale is a range, then one random crop. `none`: as in evaluation, the centre.
        """
        resize = self.resize or min(self.size)
        if kind == "random_resized":
            return RandomResizedCropping(self.size, self.channels, area)
        if kind == "random":
            scale = self.train_scale or (resize, resize)
            return RandomCropping(self.size, self.channels, scale)
        return CentreCropping(self.size, self.channels, resize)

    def normalize(self, images: Tensor) -> Tensor:
        """(N, C, H, W) uint8 to float32 with the training set's mean and deviation taken out."""
        mean, std = per_channel(self.mean, images.device), per_channel(self.std, images.device)
        return (images.float() / 255 - mean) / std

    def denormalize(self, images: Tensor) -> Tensor:
        """The inverse of `normalize`, as (N, C, H, W) uint8, for people to look at."""
        mean, std = per_channel(self.mean, images.device), per_channel(self.std, images.device)
        return ((images.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for a checkpoint that loads with `weights_only=True`."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Preprocessing":
        settings: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()
        }
        return cls(**settings)


@lru_cache
def per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Kept: to make it anew for each batch, a GPU would wait for the copy."""
    return torch.tensor(values, device=device).view(-1, 1, 1)


def with_channels(image: Tensor, channels: int) -> Tensor:
    """(..., C, H, W) with 1 or 3 channels: RGB becomes grey and grey RGB if the other is wanted."""
    if image.shape[-3] == channels:
        return image
    if channels == 1:
        return v2.functional.rgb_to_grayscale(image)
    return v2.functional.grayscale_to_rgb(image[..., :1, :, :])
