"""Made-up images: for tests, benchmarks and trying a configuration before the data is there."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le

from vgglab.data.bounds import Count
from vgglab.data.images import TensorImages
from vgglab.data.module import ImageDataModule
from vgglab.data.sampling import derive_seed
from vgglab.data.transforms import Preprocessing

_SPLITS = ("train", "val", "test")


class Synthetic(ImageDataModule):
    """A fixed random pattern a class under noise: learnable, deterministic, of any shape.

    Args:
        num_classes: classes, equally frequent.
        channels: of an image; 1 is grey, 3 is RGB.
        height: pixels.
        width: pixels.
        train_size: training images.
        val_size: validation images.
        test_size: test images.
        noise: share of the noise in a pixel, 0 (none) to 1 (nothing else).
        **common: see `ImageDataModule`.
    """

    def __init__(
        self,
        *,
        num_classes: Annotated[int, Ge(2)] = 10,
        channels: Count = 3,
        height: Count = 32,
        width: Count = 32,
        train_size: Count = 512,
        val_size: Count = 128,
        test_size: Count = 128,
        noise: Annotated[float, Ge(0), Le(1)] = 0.5,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.num_classes = num_classes
        self.shape = (channels, height, width)
        self.sizes = dict(zip(_SPLITS, (train_size, val_size, test_size), strict=True))
        self.noise = noise

    @property
    def classes(self) -> Sequence[str]:
        return [f"class {label}" for label in range(self.num_classes)]

    @property
    def preprocessing(self) -> Preprocessing:
        channels, *size = self.shape
        half, quarter = (0.5,) * channels, (0.25,) * channels
        return Preprocessing(
            half, quarter, (size[0], size[1]), resize=self.test_scale, train_scale=self.train_scale
        )

    def load(self, split: str) -> TensorImages:
        # Patterns depend on the seed alone, so that the splits share them.
        patterns = torch.rand(
            (self.num_classes, *self.shape), generator=torch.Generator().manual_seed(self.seed)
        )
        stream = derive_seed(self.seed, 1 + _SPLITS.index(split))
        generator = torch.Generator().manual_seed(stream)
        labels = torch.arange(self.sizes[split]) % self.num_classes
        noise = torch.rand((len(labels), *self.shape), generator=generator)
        images = patterns[labels] * (1 - self.noise) + noise * self.noise
        return TensorImages((images * 255).to(torch.uint8), labels, self.classes)
