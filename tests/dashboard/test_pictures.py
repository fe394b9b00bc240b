"""What a unit can see of an image, by the picture's pixels."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.dashboard.shown import data
from vgglab.dashboard.pictures import fields_picture
from vgglab.networks import build_vgg

TILE = 128
FRAME = torch.tensor([255, 127, 14])


def tile(picture: torch.Tensor, place: int) -> torch.Tensor:
    top, left = 8 + place // 3 * (TILE + 40), 8 + place % 3 * (TILE + 8)
    return picture[:, top : top + TILE, left : left + TILE]


def test_what_a_unit_does_not_see_is_dark() -> None:
    network = build_vgg("vgg11", head="compact", width=1 / 16, num_classes=4).train()
    given = data()
    given.sets["val"].images[:] = 200
    picture = fields_picture(network, given)
    assert network.training
    # conv1_1, conv2_1, conv3_2, conv4_2, conv5_2 and pool5
    assert picture.shape == (3, 8 + 2 * (TILE + 40), 8 + 3 * (TILE + 8))
    # conv1_1 sees 3 of 32 pixels, each enlarged four times, around the unit at 16.
    first = tile(picture, 0)
    inside = torch.zeros(TILE, TILE, dtype=torch.bool)
    inside[60:72, 60:72] = True
    assert torch.equal(first[:, ~inside].unique(), torch.tensor([60]))
    assert torch.equal(first[:, 62:70, 62:70].unique(), torch.tensor([200]))
    assert torch.equal(first[:, 60, 65], FRAME.byte())
    assert torch.equal(tile(picture, 5).unique(), torch.tensor([200]))  # it sees all


def test_fields_of_any_network_that_has_some_can_be_drawn() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, (1, 3)), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3))
    picture = fields_picture(network, data())
    assert picture.shape[2] == 8 + 2 * (TILE + 8)  # a tile a resolution


def test_a_network_whose_fields_are_not_known_is_refused() -> None:
    network: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2))
    with pytest.raises(ValueError, match="Upsample"):
        fields_picture(network, data())
