"""Text of a width, and fonts that have its letters."""

from pathlib import Path

import matplotlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from vgglab.reporting import lettering
from vgglab.reporting.lettering import Lettering

TEXT = Lettering(15)


@settings(max_examples=30, deadline=None)
@given(st.text("abc WMi_é漢", min_size=1, max_size=80), st.integers(20, 300), st.booleans())
def test_what_is_shortened_fits_and_could_not_be_longer(
    text: str, width: int, keep_end: bool
) -> None:
    short = TEXT.shortened(text, width, keep_end=keep_end)
    assert TEXT.width(short) <= width
    if TEXT.width(text) <= width:
        assert short == text
        return
    start, _, end = short.partition("…")
    assert text.startswith(start)
    assert text.endswith(end)
    assert keep_end or not end
    more = len(start + end) + 1
    longer = [text[:cut] + "…" + text[len(text) - more + cut :] for cut in range(more + 1)]
    widest = max(map(TEXT.width, longer)) if keep_end else TEXT.width(text[:more] + "…")
    assert widest > width


def test_the_ends_of_files_names_stay() -> None:
    short = TEXT.shortened("a" * 100 + "_17.jpeg", 150, keep_end=True)
    assert short.startswith("a")
    assert short.endswith("a_17.jpeg")


def drawn(text: str) -> bytes:
    page = Image.new("L", (60, 30))
    TEXT.write(ImageDraw.Draw(page), (2, 15), text, "white")
    return page.tobytes()


def test_letters_that_the_first_font_lacks_come_from_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fonts = Path(matplotlib.get_data_path(), "fonts/ttf")
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    letter = "\ue261"  # of STIX's own
    for other, differs in (([], False), ([broken, fonts / "STIXNonUni.ttf"], True)):
        lettering._font_with.cache_clear()
        monkeypatch.setattr(lettering, "_other_fonts", lambda other=other: [str(p) for p in other])
        assert (drawn(f"a{letter}") != drawn("a\U0010fffd")) == differs  # which no font has
    lettering._font_with.cache_clear()
