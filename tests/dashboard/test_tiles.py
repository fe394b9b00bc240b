"""Tiles by their pixels."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from vgglab.dashboard.tiles import Line, answer, captioned, png, thumbnail


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


def test_tiles_lie_in_rows_with_their_lines_below() -> None:
    tiles = [torch.full((3, 64, 100), shade, dtype=torch.uint8) for shade in (10, 60, 110)]
    captions = [[Line("first"), Line("second", "9%", "#ff0000")] for _ in tiles]
    sheet = captioned(tiles, captions, columns=2)
    row, column = 64 + 2 * 16 + 8, 108
    assert sheet.shape == (3, 2 * row + 8, 2 * column + 8)
    for place, tile in enumerate(tiles):
        top, left = 8 + place // 2 * row, 8 + place % 2 * column
        assert torch.equal(sheet[:, top : top + 64, left : left + 100], tile)
        first = sheet[:, top + 65 : top + 80, left : left + 100]
        second = sheet[:, top + 81 : top + 96, left : left + 100]
        assert first.min() < 60
        assert torch.equal(first[0], first[1])  # black on white
        assert second[0].min() == 255  # red on white
        assert second[1, :, :50].min() < 60
        assert second[1, :, 85:].min() < 60  # the end is at the right
    assert sheet[:, row:, column + 8 :].min() == 255  # no fourth


def test_long_and_strange_names_stay_below_their_own_tile() -> None:
    tiles = [torch.zeros(3, 70, 70, dtype=torch.uint8)] * 2
    named = captioned(
        tiles, [[answer("a long\nname" * 9, 0.5, is_right=False)], [Line("")]], columns=2
    )
    assert named[:, 8 + 70 :, 8 : 8 + 70].min() < 255
    assert named[:, :, 8 + 70 : 8 + 70 + 8].min() == 255


def test_a_png_holds_the_same_pixels() -> None:
    picture = torch.randint(256, (3, 9, 5), dtype=torch.uint8)
    with Image.open(io.BytesIO(png(picture))) as read:
        assert (np.asarray(read) == picture.permute(1, 2, 0).numpy()).all()
