"""Pictures whose pixels are known."""

import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import nn

from vgglab.networks import build_vgg
from vgglab.reporting.pixels import filter_grid, heated, image_grid, png, rendered, thumbnail


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize(
    "size", [(8, 8), (32, 32), (48, 20), (64, 65), (96, 96), (224, 224), (300, 7)]
)
def test_thumbnails_are_of_a_size_to_look_at(channels: int, size: tuple[int, int]) -> None:
    image = torch.randint(256, (channels, *size), dtype=torch.uint8)
    small = thumbnail(image)
    assert small.dtype == torch.uint8
    assert len(small) == 3
    assert 65 <= max(small.shape[1:]) <= 128
    assert small.shape[1] / small.shape[2] == pytest.approx(size[0] / size[1], rel=0.2)
    if max(size) <= 128:  # whole pixels
        factor = 128 // max(size)
        shown = image[[0, 0, 0]] if channels == 1 else image[:3]
        assert torch.equal(small[:, ::factor, ::factor], shown)


def test_small_grey_images_become_large_colour_tiles() -> None:
    images = torch.arange(3 * 8 * 8, dtype=torch.uint8).reshape(3, 1, 8, 8)
    grid = image_grid(images, columns=2)
    assert grid.dtype == torch.uint8
    assert grid.shape == (3, 2 * (64 + 2) + 2, 2 * (64 + 2) + 2)
    first = grid[:, 2:66, 2:66]
    assert torch.equal(first[:, ::8, ::8], images[0].expand(3, -1, -1))
    assert torch.equal(first[:, 7::8, 7::8], images[0].expand(3, -1, -1))


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (3, [0, 1, 2]), (5, [0, 1, 2])])
def test_a_single_large_image_keeps_its_size(channels: int, shown: list[int]) -> None:
    images = torch.randint(256, (1, channels, 70, 90), dtype=torch.uint8)
    assert torch.equal(image_grid(images), images[0, shown])


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


def test_a_figure_becomes_pixels() -> None:
    figure = Figure(figsize=(3, 2), dpi=100, facecolor="red")
    figure.add_artist(Rectangle((0.5, 0), 0.5, 1, color="blue"))
    pixels = rendered(figure)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 200, 300)
    assert pixels[:, 100, 50].tolist() == [255, 0, 0]
    assert pixels[:, 100, 250].tolist() == [0, 0, 255]


def test_a_png_holds_the_same_pixels() -> None:
    picture = torch.randint(256, (3, 9, 5), dtype=torch.uint8)
    with Image.open(io.BytesIO(png(picture))) as read:
        assert (np.asarray(read) == picture.permute(1, 2, 0).numpy()).all()
