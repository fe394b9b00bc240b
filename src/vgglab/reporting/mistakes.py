"""The worst mistakes of a test, as HTML."""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from vgglab.reporting.page import note
from vgglab.reporting.record import Mistake

_SIDE = 256  # pixels; a larger image is not one that a run writes
_QUALITY = 88


def mistakes_section(mistakes: Sequence[Mistake]) -> str:
    """The images with what they were taken for, how surely, and what they are.

    Args:
        mistakes: the most confident first; one whose image cannot be read has words alone.
    """
    if not mistakes:
        return ""
    cells = (
        f'<figure class="mistake">{_image(mistake)}<figcaption>'
        f'<b class="wrong">{escape(mistake.predicted)} {_percent(mistake.probability)}</b>'
        f"<span>is {escape(mistake.true)} {_percent(mistake.true_probability)}</span>"
        f"<small>test image {mistake.index:,}</small></figcaption></figure>"
        for mistake in mistakes
    )
    which = note("The test images that were taken for something else most surely.")
    return f'{which}<div class="mistakes">{"".join(cells)}</div>'


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f}\N{NO-BREAK SPACE}%"


def _image(mistake: Mistake) -> str:
    """A JPEG, of a quarter of the PNG's size: a page has up to 32 of them."""
    try:
        with Image.open(io.BytesIO(mistake.image), formats=["PNG"]) as image:
            if max(image.size) > _SIDE:
                return ""
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "JPEG", quality=_QUALITY)
    except (OSError, ValueError, SyntaxError):  # Pillow's, of damaged files
        return ""
    data = base64.b64encode(buffer.getvalue()).decode()
    alt = escape(f"{mistake.true}, taken for {mistake.predicted}")
    return f'<img alt="{alt}" src="data:image/jpeg;base64,{data}">'
