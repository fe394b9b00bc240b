"""Random changes of a whole training batch at once, on whatever device it is."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2

from vgglab.data.colour import ColourAxes
from vgglab.data.sampling import uniforms
from vgglab.data.transforms import per_channel


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
