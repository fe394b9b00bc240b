"""The worst mistakes, of strangers as well."""

import base64
import io

import pytest
from PIL import Image

from tests.reporting.pages import Page, mistake, png
from vgglab.reporting.mistakes import mistakes_section
from vgglab.reporting.record import Mistake


def test_each_has_its_image_and_names() -> None:
    odd = '"onload="x<u>'
    page = Page(mistakes_section([Mistake(**mistake()), Mistake(**mistake(true=odd, index=7))]))
    assert page.text.count("dog 98.7 %") == 2
    assert f"is {odd} 0.4 % test image 7" in page.text
    assert "u" not in page.tags
    assert len(page.addresses) == 2
    encoded = page.addresses[0].removeprefix("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        assert image.size == (64, 64)


@pytest.mark.parametrize(
    "image",
    ["", base64.b64encode(b"no picture").decode(), png()[:60], png(300)],
    ids=["none", "no picture", "torn", "too large"],
)
def test_an_image_that_cannot_be_shown_leaves_the_words(image: str) -> None:
    page = Page(mistakes_section([Mistake(**mistake(image=image))]))
    assert "dog 98.7 % is <i>cat" in page.text
    assert page.addresses == []


def test_without_mistakes_there_is_nothing_to_show() -> None:
    assert mistakes_section([]) == ""
