"""ImageNet of ILSVRC2012 as folders, `root/{train,val}/<wnid>/*.JPEG`."""

from collections.abc import Sequence
from typing import Any

from torchvision.models import VGG16_Weights

from vgglab.data.sources.folder import ImageFolder
from vgglab.errors import InputError


class ImageNet(ImageFolder):
    """1.28 million training images of 1000 classes; the 50,000 validation images are the test set.

    Args:
        root: the folder that holds `train` and `val`.
        **common: see `ImageFolder`.
    """

    hint = "scripts/prepare_imagenet.py builds it from the official archives"

    def __init__(self, *, root: str = "data/imagenet", **common: Any) -> None:
        super().__init__(root=root, **common)

    @property
    def classes(self) -> Sequence[str]:
        """Human-readable names. Sorted wnids are in the order of torchvision's categories."""
        names: Sequence[str] = VGG16_Weights.IMAGENET1K_V1.meta["categories"]
        found = self.class_folders
        if len(found) != len(names):
            raise InputError(
                f"{self.where}: {len(found)} class folders instead of {len(names)}; "
                f"{self.hint}; data=image_folder takes any number"
            )
        return names
