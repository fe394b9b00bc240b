"""Tiles by their pixels."""

import torch

from vgglab.dashboard.tiles import Line, answer_line, captioned


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
        tiles, [[answer_line("a long\nname" * 9, 0.5, is_right=False)], [Line("")]], columns=2
    )
    assert named[:, 8 + 70 :, 8 : 8 + 70].min() < 255
    assert named[:, :, 8 + 70 : 8 + 70 + 8].min() == 255
