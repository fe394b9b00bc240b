"""Random changes of a whole training batch at once, on whatever device it is."""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms import v2

from vgglab.data.colour import ColourAxes
from vgglab.data.cropping import ASPECT, TRIES, widest
from vgglab.data.sampling import uniforms
from vgglab.data.transforms import per_channel

RESIZED_DRAWS = 2 * TRIES + 3  # of `resized_crop_flip`


def mirrored(images: Tensor, numbers: Tensor) -> Tensor:
    """Each image mirrored left to right where its number, (N,) in [0, 1), is below a half.

    Returns:
        (N, C, H, W) in the memory format of the images.
    """
    return torch.where((numbers < 0.5)[:, None, None, None], images.flip(3), images)


def pad_crop_flip(images: Tensor, numbers: Tensor, *, pad: int, flip: bool) -> Tensor:
    """Each image shifted by up to `pad` pixels (zeros come in) and mirrored half of the time.

    One gather for the whole batch, on whatever device it is.

    Args:
        images: (N, C, H, W).
        numbers: (N, 3) in [0, 1): vertical shift, horizontal shift, mirror.
        pad: pixels on each side.
        flip: whether to mirror.

    Returns:
        (N, C, H, W), contiguous.
    """
    n, channels, height, width = images.shape
    # Planes in a row: the gather is then four times as fast as one over three dimensions.
    planes = torch.nn.functional.pad(images, (pad, pad, pad, pad)).reshape(n, channels, -1)
    shift = (numbers[:, :2] * (2 * pad + 1)).long()
    rows = shift[:, :1] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(n, -1)
    if flip:
        columns = torch.where(numbers[:, 2:] < 0.5, columns.flip(1), columns)
    columns = shift[:, 1:2] + columns
    pixels = rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]
    pixels = pixels.view(n, 1, -1).expand(-1, channels, -1)
    return planes.gather(2, pixels).view(images.shape)


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
        (N, C, H, W) uint8.
    """
    height, width = images.shape[-2:]
    smallest, largest = scale
    short = smallest + (numbers[:, 0] * (largest - smallest + 1)).long()
    rows = _crop_positions(numbers[:, 1], short, height, min(height, width))
    columns = _crop_positions(numbers[:, 2], short, width, min(height, width))
    return _sampled(images, rows, columns, numbers[:, 3] if flip else None)


def _crop_positions(number: Tensor, short: Tensor, side: int, shortest: int) -> Tensor:
    """(N, side): where along one axis the crop's pixels lie, the image from -1 to 1."""
    resized = short * side // shortest  # as torchvision truncates the longer side
    offset = (number * (resized - side + 1)).long()
    pixels = offset[:, None] + torch.arange(side, device=number.device)
    return (2 * pixels + 1) / resized[:, None] - 1


def resized_crop_flip(
    images: Tensor, numbers: Tensor, *, area: tuple[float, float], flip: bool
) -> Tensor:
    """torchvision's RandomResizedCrop to the images' own size for a batch, and mirrored.

    No box is larger than the image, so it is only ever enlarged and needs no antialiasing. One
    sampling for the whole batch, on whatever device it is; of files, which differ in size,
    `cropping.RandomResizedCropping` draws each box by itself.

    Args:
        images: (N, C, H, W) uint8.
        numbers: (N, `RESIZED_DRAWS`) in [0, 1): area and aspect ratio of each try, vertical
            position, horizontal position, mirror.
        area: the smallest and the largest share of the image's area.
        flip: whether to mirror.

    Returns:
        (N, C, H, W) uint8.
    """
    height, width = images.shape[-2:]
    box_height, box_width, drawn = _boxes(numbers[:, : 2 * TRIES], height, width, area)
    down, right, mirror = numbers[:, 2 * TRIES :].unbind(1)
    rows = _box_positions(down, box_height, drawn, height)
    columns = _box_positions(right, box_width, drawn, width)
    return _sampled(images, rows, columns, mirror if flip else None)


def _boxes(
    numbers: Tensor, height: int, width: int, area: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Height and width of each image's box, (N,) int64: its first try that fits in the image.

    And whether one did, (N,) bool: where none does, the box is the widest that is allowed.
    """
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    areas = height * width * (area[0] + numbers[:, 0::2] * (area[1] - area[0]))
    aspects = (low + numbers[:, 1::2] * (high - low)).exp()
    heights = (areas / aspects).sqrt().round().long()
    widths = (areas * aspects).sqrt().round().long()
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first = fits.int().argmax(1, keepdim=True)
    found = fits.any(1)
    otherwise = widest(height, width)
    return (
        torch.where(found, heights.gather(1, first)[:, 0], otherwise[0]),
        torch.where(found, widths.gather(1, first)[:, 0], otherwise[1]),
        found,
    )


def _box_positions(number: Tensor, box: Tensor, drawn: Tensor, side: int) -> Tensor:
    """(N, side): where along one axis the resized box's pixels lie, the image from -1 to 1."""
    random, middle = (number * (side - box + 1)).long(), (side - box) // 2
    offset, box = torch.where(drawn, random, middle)[:, None], box[:, None]
    pixels = (torch.arange(side, device=number.device) + 0.5) * box / side
    # Beyond the box's outermost pixels' centres these go on, not what lies beside the box.
    pixels = torch.minimum(pixels.clamp(min=0.5), box - 0.5)
    return 2 * (offset + pixels) / side - 1


def _sampled(images: Tensor, rows: Tensor, columns: Tensor, mirror: Tensor | None) -> Tensor:
    """uint8 images at `rows` (N, H) and `columns` (N, W), bilinear; `mirror` as in `mirrored`."""
    height, width = images.shape[-2:]
    if mirror is not None:
        columns = torch.where(mirror[:, None] < 0.5, columns.flip(1), columns)
    grid = torch.stack(
        (columns[:, None, :].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)), dim=3
    )
    # Outside the outermost pixels' centres they go on, as in resizing.
    crops = torch.nn.functional.grid_sample(
        images.float(), grid, padding_mode="border", align_corners=False
    )
    return crops.round().to(torch.uint8)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a whole training batch on its device."""

    seed: int
    num_classes: int
    pad: int = 0
    flip: bool = False
    scale: tuple[int, int] | None = None
    """Enlarge to a shortest side from this range, and crop; for images kept in memory."""
    area: tuple[float, float] | None = None
    """Crop a box of a share of the area from this range; for images kept in memory."""
    colour_axes: ColourAxes | None = None
    colour_deviation: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    def crop_and_flip(self, images: Tensor, epoch: int, indices: Tensor) -> Tensor:
        """Crop after padding or enlarging, or a box of any size, and mirror. uint8 in, uint8 out.

        Each image goes by its own numbers.
        """
        draw = partial(uniforms, self.seed, epoch, indices)
        if self.scale is not None:
            return rescale_crop_flip(images, draw(4), scale=self.scale, flip=self.flip)
        if self.area is not None:
            return resized_crop_flip(images, draw(RESIZED_DRAWS), area=self.area, flip=self.flip)
        if self.pad:
            return pad_crop_flip(images, draw(3), pad=self.pad, flip=self.flip)
        return mirrored(images, draw(3)[:, 2]) if self.flip else images

    def shift_colours(
        self, images: Tensor, std: tuple[float, ...], epoch: int, indices: Tensor
    ) -> Tensor:
        """Krizhevsky's colour shift of normalised images, whose pixels were divided by `std`."""
        if self.colour_axes is None:
            return images
        shift = self.colour_axes.shift(self.colour_deviation, self.seed, epoch, indices)
        return images + shift / per_channel(std, images.device)

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
