"""`skipped.json`: the images that could not be read and were passed over."""

from collections.abc import Sequence
from pathlib import Path

from vgglab.files import replace_file, shown
from vgglab.reporting.page import code, note
from vgglab.reporting.record import SKIPPED, Skipped
from vgglab.text import plural

_SHOWN = 50


def write_skipped(folder: Path, lines: Sequence[str]) -> Path:
    """Write what was skipped, a line an image: its name and the reason.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / SKIPPED
    content = Skipped(count=len(lines), images=list(lines))
    replace_file(path, content.model_dump_json(indent=1).encode())
    return path


def skipped_row(folder: Path, lines: Sequence[str]) -> dict[str, str]:
    """What a run's last lines say of them; empty where there are none."""
    return {"skipped images": f"{len(lines):,}, in {shown(folder / SKIPPED)}"} if lines else {}


def counted(count: int) -> str:
    """`1 image cannot be read and is skipped`."""
    return f"{plural(count, 'image')} cannot be read and {'is' if count == 1 else 'are'} skipped"


def skipped_section(lines: Sequence[str]) -> str:
    """The first of them as HTML; the empty string where there are none."""
    if not lines:
        return ""
    first = lines[:_SHOWN]
    more = f" The first {_SHOWN} are shown, all are in {SKIPPED}." if len(lines) > _SHOWN else ""
    return note(f"{counted(len(lines))} (data.on_error=skip).{more}") + code("\n".join(first))
