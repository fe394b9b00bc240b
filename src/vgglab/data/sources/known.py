"""The training images of the known data sets, without a look at the disk: for planning a run."""

import math
from dataclasses import dataclass

from vgglab.data.module import ImageDataModule
from vgglab.data.sources.cifar import CIFAR10, CIFAR100
from vgglab.data.sources.digits import Digits
from vgglab.data.sources.imagenet import ImageNet
from vgglab.data.sources.imagenette import Imagenette
from vgglab.data.sources.synthetic import Synthetic

# ILSVRC2012_img_train.tar and its images, as in TensorFlow Datasets' checksums; the archives of
# Imagenette (vgglab.data.sources.imagenette) and the images of both of their splits.
_IMAGENET_BYTES = 147_897_477_120 / 1_281_167
_IMAGENETTE_BYTES = {
    "full": 1_557_161_267 / 13_394,
    "320px": 341_663_724 / 13_394,
    "160px": 99_003_388 / 13_394,
}


@dataclass(frozen=True)
class TrainingImages:
    """What an epoch goes through."""

    count: int
    """Without those held out for validation."""
    classes: int
    mean_bytes: float | None
    """Of an image as it is read in each epoch; 0: kept in memory; None: not known."""


def known_images(data: ImageDataModule) -> TrainingImages | None:
    """What is known of a source without its files; None for an image folder of the user's own."""
    if isinstance(data, ImageNet | Imagenette):
        full, classes, size = 1_281_167, 1000, _IMAGENET_BYTES
        if isinstance(data, Imagenette):
            full, classes, size = 9_469, 10, _IMAGENETTE_BYTES[data.size]
        return TrainingImages(_kept(data, full, data.validation == "split"), classes, size)
    if isinstance(data, CIFAR10 | CIFAR100):
        return TrainingImages(_kept(data, 50_000), len(data.classes), 0)
    if isinstance(data, Digits):
        return TrainingImages(_kept(data, 1_437), len(data.classes), 0)  # 20 % of 1,797 are tests
    if isinstance(data, Synthetic):
        return TrainingImages(data.sizes["train"], len(data.classes), 0)
    return None


def _kept(data: ImageDataModule, images: int, splits: bool = True) -> int:
    """scikit-learn's splitter rounds the part that is held out up."""
    return images - math.ceil(images * data.validation_fraction) if splits else images
