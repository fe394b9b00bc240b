"""Files that are whole or absent, also after a kill or a power cut, and whose damage shows.

A rename is atomic, but only what was flushed before it is sure to be there after a power cut; and
the rename itself only once its folder was flushed.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from vgglab.errors import InputError

Kind = TypeVar("Kind")

_BLOCK = 1 << 20
_TEMPORARY = ".tmp"


@contextmanager
def replacing(path: Path, *, sealed: bool = False, keep: int = 0) -> Iterator[Path]:
    """Where to write what takes the place of `path`, in one step, when the block ends well.

    After an error `path` is what it was.

    Args:
        path: the file to make or replace.
        sealed: write its SHA-256 beside it, for `check_seal`.
        keep: how many of its predecessors stay, as `name-1.suffix` (the newest), `name-2.suffix`.

    Raises:
        OSError: the folder is missing or cannot be written.
    """
    # In the same folder, because a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        yield temporary
        flush(temporary)
        digests = [digest(temporary)] if sealed else []
        for age in range(keep, 0, -1):
            younger = earlier(path, age - 1)
            if younger.exists():
                _put(younger, earlier(path, age), _sealed_digests(younger))
        _put(temporary, path, digests)
    finally:
        temporary.unlink(missing_ok=True)


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` in one step: a reader sees the old content or the new, never a part.

    Raises:
        OSError: the folder is missing or cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds names and values.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"cannot read {path}: it holds no names and values")
    return content


def read_as(path: Path, kind: type[Kind]) -> Kind | None:
    """A JSON file that a run writes, checked; None where there is none. A bool is no number.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    if not path.exists():
        return None
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes(), strict=True)
    except (OSError, ValidationError) as error:
        raise InputError(f"{path} is not what a run writes") from error


def shown(path: Path) -> str:
    """As one would type it: relative to the working folder where it lies below that."""
    whole = path.resolve()
    return os.path.relpath(whole) if whole.is_relative_to(Path.cwd()) else str(whole)


def earlier(path: Path, age: int) -> Path:
    """The name of a predecessor that `replacing` kept; age 0 is the file itself."""
    return path.with_name(f"{path.stem}-{age}{path.suffix}") if age else path


def remove(path: Path) -> None:
    """Remove a file and its seal; neither needs to be there."""
    path.unlink(missing_ok=True)
    seal(path).unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes that ask out of `folder`. The lock goes with the process, also a killed.

    Raises:
        BlockingIOError: another process is in it.
        OSError: the folder is missing or cannot be written.
    """
    with (folder / ".lock").open("w") as file:
        # Not flock, which a killed process's children would still hold.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def is_occupied(folder: Path) -> bool:
    """Whether another process is in `folder` by `alone_in`, as far as this machine can tell.

    The process that is in it must not ask: a lock goes when its file is closed, by whomever.
    """
    try:
        descriptor = os.open(folder / ".lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        os.lockf(descriptor, os.F_TEST, 0)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder in which nobody writes now."""
    for temporary in folder.glob(f".*.[0-9]*{_TEMPORARY}"):
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(
    path: Path, algorithm: str = "sha256", advance: Callable[[int], None] = lambda size: None
) -> str:
    """The file's digest in hexadecimal digits.

    Args:
        path: the file.
        algorithm: as hashlib names it.
        advance: told of the bytes just read.

    Raises:
        OSError: the file cannot be read.
    """
    state = hashlib.new(algorithm, usedforsecurity=False)  # against damage, not against forgers
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
            advance(len(block))
    return state.hexdigest()


def seal(path: Path) -> Path:
    """Where the digest of `path` stands, as `sha256sum --check` reads it."""
    return path.with_name(f"{path.name}.sha256")


def is_damaged(path: Path) -> bool | None:
    """Whether a file differs from what was written; None if it has no seal.

    Raises:
        OSError: the file cannot be read.
    """
    expected = _sealed_digests(path)
    return digest(path) not in expected if expected else None


def _put(source: Path, target: Path, digests: list[str]) -> None:
    """Rename so that at every moment the seal beside `target` fits the file."""
    if digests:
        # Two names cannot change in one step: for a moment the seal fits the old file and the new.
        _write_seal(target, digests + _sealed_digests(target))
    else:
        seal(target).unlink(missing_ok=True)
    os.replace(source, target)
    flush(target.parent)
    if digests:
        _write_seal(target, digests)


def _sealed_digests(path: Path) -> list[str]:
    if not seal(path).exists():
        return []
    lines = seal(path).read_text(encoding="ascii", errors="replace").splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def _write_seal(path: Path, digests: list[str]) -> None:
    replace_file(seal(path), "".join(f"{value}  {path.name}\n" for value in digests).encode())
