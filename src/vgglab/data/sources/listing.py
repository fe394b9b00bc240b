"""Which image files a folder holds, and which class each one is of."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vgglab.data.decoding import IMAGE_SUFFIXES
from vgglab.data.notices import notice
from vgglab.errors import InputError
from vgglab.progress import each


def list_images(folder: Path) -> tuple[list[str], Tensor | None, list[str]]:
    """The images of `folder/class/image`, or of a folder without sub-folders.

    Returns:
        Files relative to `folder`, sorted; their labels (N,) int64 and the classes' names in label
        order, or None and no names where there are no sub-folders.

    Raises:
        InputError: no such folder, no images in it or in a class, or images beside the classes.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    with os.scandir(folder) as entries:
        here = sorted(e.name for e in entries if _is_image(e.name) and _checked_file(e))
    classes = sub_folders(folder)
    if here and classes:
        raise InputError(
            f"{folder}: images ({here[0]}) beside folders ({classes[0]}); "
            "expected <class>/<image>, or images alone"
        )
    if not here and not classes:
        raise InputError(f"{folder}: no images in it")
    return (here, None, []) if here else (*labelled_files(folder, classes), classes)


def labelled_files(folder: Path, classes: Sequence[str]) -> tuple[list[str], Tensor]:
    """Image files below `folder`, relative to it, with their labels; sorted, so that an index
    means the same image on every machine."""
    files: list[str] = []
    counts = []
    for name in each(classes, f"list {folder.name}", unit="folders"):
        found, others = _image_files(folder, name)
        if not found:
            also = f", only e.g. {others[0]}" if others else ""
            endings = " ".join(sorted(IMAGE_SUFFIXES))
            raise InputError(f"{folder / name}: no images ({endings}) in it{also}")
        if others:
            more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
            notice(f"{folder / others[0]}{more}: not called an image, and left out")
        files += found
        counts.append(len(found))
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return files, labels


def sub_folders(folder: Path) -> list[str]:
    """The names of its sub-folders, sorted; what begins with a dot is passed over."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _image_files(folder: Path, name: str) -> tuple[list[str], list[str]]:
    """Images below `folder/name`, and what else is there, both relative to `folder`."""
    images: list[str] = []
    others: list[str] = []
    for file in _walk(str(folder), name):
        (images if _is_image(file) else others).append(file)
    return sorted(images), sorted(others)


def _is_image(file: str) -> bool:
    return os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES


def _walk(root: str, below: str) -> Iterator[str]:
    with os.scandir(os.path.join(root, below)) as entries:
        for entry in entries:
            if entry.name.startswith("."):  # what desktops leave behind
                continue
            path = f"{below}/{entry.name}"
            if entry.is_dir():
                yield from _walk(root, path)
            elif not _is_image(entry.name) or _checked_file(entry):
                yield path


def _checked_file(entry: "os.DirEntry[str]") -> bool:
    if not entry.is_file():  # a pipe would be waited for
        raise InputError(f"{entry.path}: neither a file nor a link to one")
    return True
