"""Two sets of images from one."""

import torch
from sklearn.model_selection import StratifiedShuffleSplit
from torch import Tensor

from vgglab.errors import InputError


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Two disjoint index sets that together cover all images, each class in proportion.

    Args:
        labels: (N,) int64.
        fraction: of the images that go to the second set, 0 < fraction < 1.
        seed: the same seed gives the same split.

    Returns:
        Indices (int64, ascending) of the first and of the second set.

    Raises:
        InputError: a class has too few images to be in both.
    """
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=fraction, random_state=seed % 2**32)
    try:
        first, second = next(splitter.split(labels.numpy(), labels.numpy()))
    except ValueError as error:
        raise InputError(
            f"cannot hold out {fraction:g} of the images (data.validation_fraction): {error}"
        ) from error
    return torch.from_numpy(first).sort().values, torch.from_numpy(second).sort().values
