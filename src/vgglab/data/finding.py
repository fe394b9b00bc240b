"""Image files by the names that a person gives on a command line."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

from vgglab.data.decoding import IMAGE_SUFFIXES
from vgglab.errors import InputError


def find_images(patterns: str | Sequence[str]) -> list[Path]:
    """Files, folders (searched to the bottom, without hidden files) and globs of them, as files.

    Args:
        patterns: one or several; `~` is the home folder. What exists by exactly that name comes
            before what the pattern means as a glob.

    Returns:
        Pattern by pattern, each in sorted order.

    Raises:
        InputError: a pattern matches no image, or there is no pattern.
    """
    found: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        path = Path(pattern).expanduser()
        matches = [path] if path.exists() else map(Path, glob.glob(str(path), recursive=True))
        # Not a pipe, which would be waited for.
        images = {
            file
            for match in matches
            for file in _files(match)
            if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
        }
        if not images:
            raise InputError(f"images={pattern}: no image file there")
        found += sorted(images)
    if not found:
        raise InputError("images=[] names no image")
    return found


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for below in path.rglob("*"):
        # What desktops leave behind, such as `._photo.jpg`, has an image's suffix.
        if not any(part.startswith(".") for part in below.relative_to(path).parts):
            yield below
