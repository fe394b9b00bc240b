"""Where the runs are: folders, the folders above them, globs."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from vgglab.config.stored import CONFIG
from vgglab.errors import InputError


def find_runs(places: Sequence[str]) -> list[Path]:
    """The folders with a configuration in or below the given ones, each once, in order.

    Args:
        places: folders of runs, folders with runs at any depth, and globs of such; files among
            the matches of a glob are passed over.

    Raises:
        InputError: a place is missing or no folder, or a glob matches nothing.
    """
    found: dict[Path, Path] = {}
    for place in places:
        for folder in _folders(place):
            for run in _below(folder):
                found.setdefault(run.resolve(), run)
    return list(found.values())


def common_names(folders: Sequence[Path]) -> list[str]:
    """What tells the folders apart: their paths below the folder that holds them all."""
    whole = [folder.resolve() for folder in folders]
    if len(whole) < 2:
        return [path.name for path in whole]
    above = os.path.commonpath(whole)
    return [os.path.relpath(path, above) for path in whole]


def _folders(place: str) -> list[Path]:
    path = Path(place).expanduser()
    if path.is_dir():
        return [path]
    if path.exists():
        raise InputError(f"{place} is a file; give the folder of a run")
    if not glob.has_magic(place):
        raise InputError(f"{place}: no such folder")
    matches = sorted(glob.glob(str(path), recursive=True))
    if folders := [Path(match) for match in matches if Path(match).is_dir()]:
        return folders
    raise InputError(f"{place} matches no folder")


def _below(folder: Path) -> list[Path]:
    found = []
    for parent, names, _ in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        if Path(parent, CONFIG).is_file():
            found.append(Path(parent))
    return found
