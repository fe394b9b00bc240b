"""The pictures, by their pixels."""

import pytest
import torch
from torch import nn

from vgglab.inspection.figures import (
    feature_map_figure,
    filter_grid,
    heat_figure,
    heated,
    rendered,
)
from vgglab.networks import build_vgg


def test_filters_are_scaled_each_by_its_own_and_grey_is_zero() -> None:
    network = build_vgg("vgg11", width=2 / 64, head="compact")
    with torch.no_grad():
        first = network.features[0].weight.zero_()
        first[0, :, 0, 0] = torch.tensor([4.0, -4.0, 0.0])
        first[1, :, 2, 2] = torch.tensor([0.0, 0.01, 0.0])
    grid = filter_grid(network)
    side = 21 * 3  # 3x3 pixels, enlarged to a visible size, with two pixels between filters
    assert grid.dtype == torch.uint8
    assert grid.shape == (3, side + 4, 2 * side + 6)
    assert grid[:, 2 + 10, 2 + 10].tolist() == [255, 0, 128]
    assert grid[:, 2 + 31, 2 + 31].tolist() == [128, 128, 128]
    assert grid[:, 2 + 52, 4 + side + 52].tolist() == [128, 255, 128]


def test_all_zero_filters_and_grey_networks_can_be_drawn_and_others_are_refused() -> None:
    network = build_vgg("vgg11", width=1 / 64, head="compact", in_channels=1)
    nn.init.zeros_(network.features[0].weight)
    assert filter_grid(network)[:, 33, 33].tolist() == [128, 128, 128]
    with pytest.raises(ValueError, match="Linear has no 2-D convolution"):
        filter_grid(nn.Linear(2, 2))


def test_the_strongest_maps_are_drawn_with_their_numbers() -> None:
    maps = torch.zeros(5, 4, 4)
    maps[3, 1, 1], maps[1, 0, 0], maps[4] = -9.0, 3.0, 1e-3
    figure = feature_map_figure(torch.zeros(1, 8, 8, dtype=torch.uint8), maps, "a $title", count=2)
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("input", "a $title")
    assert [text.get_text() for text in right.texts] == ["1", "3"]
    drawn = right.images[0].get_array()
    bright, dark = [253, 231, 36], [68, 1, 84]  # the ends of viridis
    # Cells of 64 pixels, two between them: 16 pixels for each of a map.
    assert drawn[2 + 8, 2 + 8].tolist() == bright
    assert drawn[2 + 24, 2 + 24].tolist() == dark
    assert drawn[2 + 24, 68 + 24].tolist() == dark  # the one negative value of map 3
    assert drawn[2 + 8, 68 + 8].tolist() == bright


def test_heat_hides_nothing_where_there_is_none() -> None:
    heat = torch.zeros(6, 6)
    heat[2, 3] = 0.5
    image = torch.full((3, 6, 6), 200, dtype=torch.uint8)
    under = heated(image, heat)
    assert under.dtype == torch.uint8
    # Turbo ends with (122.3, 4.0, 2.7), of which 70 % cover 30 % of 200.
    assert under[:, 2, 3].tolist() == [146, 63, 62]
    under[:, 2, 3] = 200
    assert torch.equal(under, image)
    assert torch.equal(heated(image, torch.zeros(6, 6)), image)


def test_a_coarse_heat_is_enlarged_and_shows_on_grey_images() -> None:
    image = torch.zeros(1, 8, 8, dtype=torch.uint8)
    under = heated(image, torch.tensor([[0.0, 0.0], [0.0, 3.0]]))
    assert under.shape == (3, 8, 8)
    assert under[:, :2, :2].max() == 0
    red, green, blue = under[:, -1, -1].tolist()
    assert red > 80
    assert max(green, blue) < 10


def test_a_heat_figure_shows_the_image_without_and_with() -> None:
    image = torch.randint(256, (1, 6, 6), dtype=torch.uint8)
    heat = torch.rand(3, 3)
    left, right = heat_figure(image, heat, "$caption", "cat: 50%").axes
    assert (left.get_title(), right.get_title()) == ("$caption", "cat: 50%")
    (shown,), (over,) = left.images, right.images
    assert (shown.get_array() == image.permute(1, 2, 0).numpy()).all()
    assert (over.get_array() == heated(image, heat).permute(1, 2, 0).numpy()).all()


def test_a_figure_becomes_pixels() -> None:
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    image[0] = 255
    pixels = rendered(heat_figure(image, torch.zeros(4, 4), "", ""))
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 540, 900)
    assert pixels[:, 270, 225].tolist() == [255, 0, 0]
    assert pixels[:, 0, 0].tolist() == [255, 255, 255]
