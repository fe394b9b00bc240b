"""The random crop of one training image that is a file."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms import v2

from vgglab.data.transforms import Preprocessing

TrainCrop = Literal["random_resized", "random", "none"]


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
