"""The images that pictures during training are drawn of."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from vgglab.dashboard.drawing import examples
from vgglab.data.images import ImageSet
from vgglab.data.transforms import Preprocessing
from vgglab.errors import BrokenImageError, InputError

LABELS = [2, 0, 0, 2, 4, 0, 4]


class Pictures(ImageSet):
    """Each of the colour of its index; some are broken."""

    def __init__(self, broken: set[int]) -> None:
        self.labels, self.classes, self.broken = torch.tensor(LABELS), "abcde", broken

    def image(self, index: int) -> Tensor:
        if index in self.broken:
            raise BrokenImageError(f"{index}: torn")
        return torch.full((1, 3, 3), index, dtype=torch.uint8)

    def subset(self, indices: Tensor) -> ImageSet:
        raise AssertionError("nobody asks for a subset")


def found(count: int, broken: set[int], on_error: str) -> list[tuple[int, int]]:
    """Label and index of each."""
    data: Any = SimpleNamespace(
        sets={"val": Pictures(broken)},
        preprocessing=Preprocessing((0.0,), (1.0,), (3, 3)),
        on_error=on_error,
    )
    images, labels = examples(data, count)
    return list(zip(labels.tolist(), images[:, 0, 0, 0].tolist(), strict=True))


def test_they_are_the_first_of_each_class() -> None:
    assert found(8, set(), "raise") == [(0, 1), (2, 0), (4, 4)]
    assert found(2, set(), "raise") == [(0, 1), (2, 0)]


def test_broken_ones_are_passed_over_where_that_is_wanted() -> None:
    with pytest.raises(InputError, match="1: torn"):
        found(8, {1}, "raise")
    assert found(8, {1, 2, 4, 6}, "skip") == [(0, 5), (2, 0)]
    with pytest.raises(InputError, match="none of the validation images"):
        found(8, set(range(7)), "skip")
