"""What vgglab's loader is measured against: PIL and torchvision's transforms, image by image.

As torchvision's reference training does it (references/classification in its repository), up to the
uint8 image; what it does from there on, each loader is given alike.
"""

import io
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

from vgglab.data import ImageDataModule
from vgglab.data.cropping import AREA, TrainCrop
from vgglab.data.images import EncodedImages, ImageSet, TensorImages
from vgglab.errors import BrokenImageError

Transform = Callable[[Image.Image], Tensor]
_Step = Callable[[Image.Image], Image.Image]


class RandomScaleCrop:
    """The paper's section 3.1 with torchvision's means: the shortest side to a drawn S, a crop."""

    def __init__(self, scale: tuple[int, int], size: tuple[int, int]) -> None:
        self.scale = scale
        self.crop = transforms.RandomCrop(size)

    def __call__(self, image: Image.Image) -> Image.Image:
        smallest, largest = self.scale
        shortest = int(torch.randint(smallest, largest + 1, ()))
        return self.crop(transforms.functional.resize(image, shortest))


def file_crop(
    kind: TrainCrop,
    size: tuple[int, int],
    scale: tuple[int, int],
    area: tuple[float, float] = AREA,
) -> list[_Step]:
    """torchvision's transforms for `vgglab.data.cropping`'s kinds.

    Args:
        kind: `none` is evaluation's.
        size: height and width of the network's input, pixels.
        scale: the smallest and the largest shortest side before the crop, pixels.
        area: the smallest and the largest share of the area of a `random_resized` crop.
    """
    if kind == "random_resized":
        return [transforms.RandomResizedCrop(size, scale=area)]
    if kind == "none":
        return [transforms.Resize(scale[0]), transforms.CenterCrop(size)]
    if scale[0] == scale[1]:
        return [transforms.Resize(scale[0]), transforms.RandomCrop(size)]
    return [RandomScaleCrop(scale, size)]


def training_transform(data: ImageDataModule) -> Transform:
    """What the configured training does to an image, by torchvision's transforms."""
    steps = _crop(data)
    if data.augment and data.flip:
        steps.append(transforms.RandomHorizontalFlip())
    return transforms.Compose([*steps, transforms.PILToTensor()])


def _crop(data: ImageDataModule) -> list[_Step]:
    size, resize = data.preprocessing.size, data.preprocessing.resize
    crop = data.train_crop if data.augment else "none"
    if crop == "random" and data.train_scale is not None:
        return file_crop("random", size, data.train_scale)
    if crop is not None and (data.crops_one_by_one or crop != "none"):
        shortest = resize or min(size)
        return file_crop(crop, size, (shortest, shortest), data.crop_area)
    if data.augment and data.pad:
        return [transforms.RandomCrop(size, padding=data.pad)]
    return []


class ReferenceImages(Dataset[tuple[Tensor, int]]):
    """A set of images as torchvision's ImageFolder and CIFAR10 hand it out, transformed.

    Args:
        images: the set.
        data: whose settings the transforms follow.
    """

    def __init__(self, images: ImageSet, data: ImageDataModule) -> None:
        self.images = images
        self.labels = images.labels.tolist()
        self.transform = training_transform(data)
        self.pixels = None
        if isinstance(images, TensorImages):  # as CIFAR10 keeps them
            self.pixels = images.images.permute(0, 2, 3, 1).contiguous().squeeze(-1).numpy()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self.pixels is not None:
            image = Image.fromarray(self.pixels[index])
        else:
            image = self.open(self.read(index))
        return self.transform(image), self.labels[index]

    # What is broken, and vgglab's loader may be told to skip, would end the reference.

    def read(self, index: int) -> bytes:
        """Of a file that cannot be read: none."""
        assert isinstance(self.images, EncodedImages)
        try:
            return self.images.read(index)
        except BrokenImageError:
            return b""

    def open(self, content: bytes) -> Image.Image:
        """Of what cannot be decoded: black."""
        try:
            return open_image(content)
        except (OSError, SyntaxError, ValueError):
            return Image.new("RGB", (256, 256))


def open_image(content: bytes) -> Image.Image:
    """As torchvision's `pil_loader`."""
    return Image.open(io.BytesIO(content)).convert("RGB")
