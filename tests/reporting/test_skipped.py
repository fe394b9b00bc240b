"""What a run skipped, in its file and on its page."""

from pathlib import Path

import pytest

from tests.reporting.pages import Page
from vgglab.reporting.record import read_skipped
from vgglab.reporting.skipped import skipped_row, skipped_section, write_skipped


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_skipped(tmp_path) == []
    lines = ["a b.jpg: empty file", "é\\udc80.png: not an image"]
    assert write_skipped(tmp_path, lines) == tmp_path / "skipped.json"
    assert read_skipped(tmp_path) == lines
    assert skipped_row(tmp_path, lines) == {"skipped images": f"2, in {tmp_path / 'skipped.json'}"}
    assert skipped_row(tmp_path, []) == {}


@pytest.mark.parametrize("count", [0, 1, 50, 51])
def test_the_page_shows_the_first_fifty(count: int) -> None:
    text = Page(skipped_section([f"{i}.jpg: empty file" for i in range(count)])).text
    assert text.count("empty file") == min(count, 50)
    assert ("all are in skipped.json" in text) == (count > 50)
    assert ("1 image cannot be read and is skipped" in text) == (count == 1)
