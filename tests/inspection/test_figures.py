"""The pictures, by their pixels."""

import torch

from vgglab.inspection.figures import feature_map_figure, heat_figure
from vgglab.reporting.pixels import heated


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


def test_a_heat_figure_shows_the_image_without_and_with() -> None:
    image = torch.randint(256, (1, 6, 6), dtype=torch.uint8)
    heat = torch.rand(3, 3)
    left, right = heat_figure(image, heat, "$caption", "cat: 50%").axes
    assert (left.get_title(), right.get_title()) == ("$caption", "cat: 50%")
    (shown,), (over,) = left.images, right.images
    assert (shown.get_array() == image.permute(1, 2, 0).numpy()).all()
    assert (over.get_array() == heated(image, heat).permute(1, 2, 0).numpy()).all()
