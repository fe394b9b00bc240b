"""From stored images to what the network sees: torchvision v2 on files, gathers on batches."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.transforms import v2

from vgglab.data.colour import ColourAxes
from vgglab.data.sampling import uniforms

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # torchvision's, of images scaled to 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)

TrainCrop = Literal["random_resized", "random", "none"]


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
        image = with_channels(image, self.channels)
        shortest = self.resize or min(self.size)
        image = v2.functional.resize(image, [shortest], antialias=True)
        return v2.functional.center_crop(image, list(self.size))

    def normalize(self, images: Tensor) -> Tensor:
        """(N, C, H, W) uint8 to float32 with the training set's mean and deviation taken out."""
        mean, std = _per_channel(self.mean, images.device), _per_channel(self.std, images.device)
        return (images.float() / 255 - mean) / std

    def denormalize(self, images: Tensor) -> Tensor:
        """The inverse of `normalize`, as (N, C, H, W) uint8, for people to look at."""
        mean, std = _per_channel(self.mean, images.device), _per_channel(self.std, images.device)
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
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Kept: to make it anew for each batch, a GPU would wait for the copy."""
    return torch.tensor(values, device=device).view(-1, 1, 1)


def with_channels(image: Tensor, channels: int) -> Tensor:
    """(..., C, H, W) with 1 or 3 channels: RGB becomes grey and grey RGB if the other is wanted."""
    if image.shape[-3] == channels:
        return image
    if channels == 1:
        return v2.functional.rgb_to_grayscale(image)
    return v2.functional.grayscale_to_rgb(image[..., :1, :, :])


def train_crop(kind: TrainCrop, preprocessing: Preprocessing) -> Callable[[Tensor], Tensor]:
    """The random crop of one decoded file, uint8 to uint8.

    `random_resized`: torchvision's reference (8 % to 100 % of the area). `random`: the paper's
    section 3.1, the shortest side resized to S, drawn anew for each image where the training scale
    is a range, then one random crop. `none`: as in evaluation.
    """
    size = preprocessing.size
    if kind == "none":
        return preprocessing.fit
    if kind == "random_resized":
        return v2.RandomResizedCrop(size, antialias=True)
    smallest, largest = preprocessing.train_scale or (preprocessing.resize or min(size),) * 2
    random_crop = v2.RandomCrop(size)

    def rescale_and_crop(image: Tensor) -> Tensor:
        # Not `v2.RandomShortestSize`, which rounds some sides down to S - 1.
        scale = int(torch.randint(smallest, largest + 1, ()))
        return random_crop(v2.functional.resize(image, [scale], antialias=True))

    return rescale_and_crop


def pad_crop_flip(images: Tensor, numbers: Tensor, *, pad: int, flip: bool) -> Tensor:
    """Each image shifted by up to `pad` pixels (zeros come in) and mirrored half of the time.

    One gather for the whole batch, on whatever device it is.

    Args:
        images: (N, C, H, W).
        numbers: (N, 3) in [0, 1): vertical shift, horizontal shift, mirror.
        pad: pixels on each side.
        flip: whether to mirror.

    Returns:
        (N, C, H, W) in channels-last memory format.
    """
    n, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    shift = (numbers[:, :2] * (2 * pad + 1)).long()
    rows = shift[:, :1] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(n, -1)
    if flip:
        columns = torch.where(numbers[:, 2:] < 0.5, columns.flip(1), columns)
    columns = shift[:, 1:2] + columns
    batch = torch.arange(n, device=images.device)[:, None, None]
    # Index tensors around the channel slice put the channels last: (N, H, W, C).
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def rescale_crop_flip(
    images: Tensor, numbers: Tensor, *, scale: tuple[int, int], flip: bool
) -> Tensor:
    """The paper's section 3.1 for a batch: each image enlarged to its own S, cropped, mirrored.

    The shortest side is resized to S (bilinear), an integer drawn from the range; the crop has the
    images' own size. One sampling for the whole batch, on whatever device it is.

    Args:
        images: (N, C, H, W) uint8.
        numbers: (N, 4) in [0, 1): S, vertical position, horizontal position, mirror.
        scale: the smallest and the largest S, pixels, at least the shortest side.
        flip: whether to mirror.

    Returns:
        (N, C, H, W) uint8 in channels-last memory format.
    """
    height, width = images.shape[-2:]
    smallest, largest = scale
    short = smallest + (numbers[:, 0] * (largest - smallest + 1)).long()
    rows = _crop_positions(numbers[:, 1], short, height, min(height, width))
    columns = _crop_positions(numbers[:, 2], short, width, min(height, width))
    if flip:
        columns = torch.where(numbers[:, 3:] < 0.5, columns.flip(1), columns)
    grid = torch.stack(
        (columns[:, None, :].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)), dim=3
    )
    # Outside the outermost pixels' centres they go on, as in resizing.
    crops = torch.nn.functional.grid_sample(
        images.float(), grid, padding_mode="border", align_corners=False
    )
    return crops.round().to(torch.uint8, memory_format=torch.channels_last)


def _crop_positions(number: Tensor, short: Tensor, side: int, shortest: int) -> Tensor:
    """(N, side): where along one axis the crop's pixels lie, the image from -1 to 1."""
    resized = short * side // shortest  # as torchvision truncates the longer side
    offset = (number * (resized - side + 1)).long()
    pixels = offset[:, None] + torch.arange(side, device=number.device)
    return (2 * pixels + 1) / resized[:, None] - 1


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a whole training batch on its device."""

    seed: int
    num_classes: int
    pad: int = 0
    flip: bool = False
    scale: tuple[int, int] | None = None
    """Enlarge to a shortest side from this range, and crop; for images kept in memory."""
    colour_axes: ColourAxes | None = None
    colour_deviation: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    def crop_and_flip(self, images: Tensor, epoch: int, indices: Tensor) -> Tensor:
        """Crop after padding or enlarging, and mirror. uint8 in, uint8 out.

        Each image goes by its own numbers.
        """
        if self.scale is not None:
            numbers = uniforms(self.seed, epoch, indices, 4)
            return rescale_crop_flip(images, numbers, scale=self.scale, flip=self.flip)
        if not (self.pad or self.flip):
            return images
        numbers = uniforms(self.seed, epoch, indices, 3)
        return pad_crop_flip(images, numbers, pad=self.pad, flip=self.flip)

    def shift_colours(
        self, images: Tensor, std: tuple[float, ...], epoch: int, indices: Tensor
    ) -> Tensor:
        """Krizhevsky's colour shift of normalised images, whose pixels were divided by `std`."""
        if self.colour_axes is None:
            return images
        shift = self.colour_axes.shift(self.colour_deviation, self.seed, epoch, indices)
        return images + shift / _per_channel(std, images.device)

    def mix(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """MixUp or CutMix, chosen with equal chance where both are on.

        Args:
            images: (N, C, H, W) float.
            labels: (N,) int64.
            seed: the batch's; it fixes the outcome.

        Returns:
            The images, and (N, classes) label weights; the labels as they came where both are off.
        """
        choices = [
            kind(alpha=alpha, num_classes=self.num_classes)
            for kind, alpha in ((v2.MixUp, self.mixup_alpha), (v2.CutMix, self.cutmix_alpha))
            if alpha
        ]
        if not choices:
            return images, labels
        with torch.random.fork_rng(devices=[]):
            # `torch.manual_seed` would restart the GPUs' streams too, and with them dropout.
            torch.default_generator.manual_seed(seed)
            mixed: tuple[Tensor, Tensor] = v2.RandomChoice(choices)(images, labels)
        return mixed
