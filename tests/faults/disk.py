"""A disk that kills the process which writes to it, or is full, or loses what was not flushed.

`Disk.install` puts itself between a process and its file operations inside one folder: opening for
writing, every write that reaches the kernel, fsync, rename and unlink. At the operation that a
`Fault` names it strikes. Reads pass, and so does everything outside that folder.
"""

import errno
import io
import json
import os
import pathlib
import random
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

OPERATIONS = ("open", "write", "fsync", "rename", "unlink")


@dataclass(frozen=True)
class Fault:
    """What strikes, and at which file operation.

    Args:
        effect: `kill`, a SIGKILL; `power`, a power cut; `full`, no space from there on.
        operation: one of `OPERATIONS`.
        kind: of the file, see `kind_of`.
        number: the how-manyth of these operations on these files, from 1.
        when: `before`, `after`, or for a write `within`: with half of the bytes written.
        seed: of what a power cut leaves.
    """

    effect: str
    operation: str
    kind: str
    number: int
    when: str
    seed: int


def kind_of(path: str) -> str:
    """Temporary files count as what they become: checkpoint, digest, history, curves, other."""
    if os.path.isdir(path):
        return "folder"
    name = os.path.basename(path)
    for part, kind in (
        (".sha256", "digest"),
        (".ckpt", "checkpoint"),
        ("metrics.csv", "history"),
        ("tfevents", "curves"),
    ):
        if part in name:
            return kind
    return "other"


@dataclass
class Change:
    """A change of a folder's names, which a power cut may undo until that folder is flushed."""

    path: str
    """The name that appeared, went, or changed its file."""
    source: str | None
    """The name that it had before a rename."""
    before: bytes | None
    """What the file of that name held before."""


class Disk:
    """The file operations of a process, counted, and its memory of what is not on the disk yet.

    A power cut keeps, of each folder's changes since it was flushed, a random first part, as a
    journal would; and of each file's bytes from the first unflushed one on a random first part,
    followed by nothing or by zeros.

    Args:
        root: the folder that matters.
        diary: a folder outside; `saves/` there gets a link to every checkpoint that is complete,
            which after a power cut must mean flushed, and `operations.json` the counts.
        fault: what strikes; None for nothing.
    """

    def __init__(self, root: Path, diary: Path, fault: Fault | None) -> None:
        self.root, self.diary, self.fault = str(root), diary, fault
        self.counts: Counter[tuple[str, str]] = Counter()
        self.unflushed: dict[str, int] = {}  # files to the first byte that may be lost
        self.changes: dict[str, list[Change]] = {}  # by folder
        self.lock = threading.RLock()
        self.full = False
        self.real = {name: getattr(os, name) for name in ("open", "fsync", "replace", "unlink")}
        self.real_open = io.open

    def install(self) -> None:
        """From now on, in this process; forks of it are left alone."""
        import builtins

        os.register_at_fork(after_in_child=partial(setattr, self, "root", "\0"))
        self._patch(os, "open", self._os_open)
        self._patch(os, "fsync", self._fsync)
        self._patch(os, "fdatasync", self._fsync)
        for name in ("replace", "rename"):
            self._patch(os, name, self._replace)
        for name in ("unlink", "remove"):
            self._patch(os, name, self._unlink)
        for module in (io, builtins):
            self._patch(module, "open", self._open)
        shutil._USE_CP_SENDFILE = False  # type: ignore[attr-defined]  # copies pass here too

    def _patch(self, module: Any, name: str, function: Callable[..., Any]) -> None:
        setattr(module, name, function)
        accessor = getattr(pathlib, "_NormalAccessor", None)  # of Python 3.10
        if accessor is not None and hasattr(accessor, name):
            setattr(accessor, name, staticmethod(function))

    def write_counts(self) -> None:
        """For whoever chooses the next fault: rows of operation, kind of file, count."""
        counts = [[*key, count] for key, count in sorted(self.counts.items())]
        (self.diary / "operations.json").write_text(json.dumps(counts))

    # The operations

    def _perform(
        self, operation: str, path: str, act: Callable[[], T], half: Callable[[], Any] | None = None
    ) -> T:
        """Do it, unless the fault comes first; `self.lock` is held."""
        kind = kind_of(path)
        self.counts[operation, kind] += 1
        fault = self.fault
        struck = fault is not None and (
            (fault.operation, fault.kind, fault.number)
            == (operation, kind, self.counts[operation, kind])
        )
        if fault is None or not (struck or self.full):
            return act()
        if fault.effect == "full":
            self.full = True
            if operation in ("open", "write", "fsync"):
                if half is not None and struck and fault.when == "within":
                    half()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            return act()
        if fault.when == "after":
            act()
        elif fault.when == "within" and half is not None:
            half()
        self._strike(fault)
        raise AssertionError("survived a SIGKILL")

    def _strike(self, fault: Fault) -> None:
        if fault.effect == "power":
            self._lose(random.Random(fault.seed))
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()  # another thread may receive it first

    def _open(self, file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kw: Any) -> Any:
        path = None if set(mode).isdisjoint("wxa+") else self._inside(file)
        if path is None:
            return self.real_open(file, mode, buffering, *args, **kw)
        raw_mode = mode.replace("b", "").replace("t", "")
        named = not isinstance(file, int)
        with self.lock:
            raw = self._create(
                path, named, "w" in mode, lambda: _Tracked(self, file, raw_mode, **_raw(kw))
            )
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        text = {name: kw[name] for name in ("encoding", "errors", "newline") if name in kw}
        return io.TextIOWrapper(buffered, *args, **text)

    def _os_open(self, path: Any, flags: int, *args: Any, **kw: Any) -> int:
        inside = self._inside(path, kw.get("dir_fd")) if flags & os.O_CREAT else None
        act: partial[int] = partial(self.real["open"], path, flags, *args, **kw)
        if inside is None:
            return act()
        with self.lock:
            return self._create(inside, True, bool(flags & os.O_TRUNC), act)

    def _create(self, path: str, named: bool, truncates: bool, act: Callable[[], T]) -> T:
        if not named:  # a descriptor, whose file was opened before
            return act()
        is_new = not os.path.exists(path)
        opened = self._perform("open", path, act)
        if is_new:
            self._changed(Change(path, None, None))
        if truncates:
            self.unflushed[path] = 0
        return opened

    def write(self, path: str, at: int, data: memoryview, write: Callable[[Any], int]) -> int:
        with self.lock:
            self.unflushed[path] = min(at, self.unflushed.get(path, at))
            half = partial(write, data[: len(data) // 2])
            return self._perform("write", path, partial(write, data), half)

    def truncated(self, path: str, size: int) -> None:
        with self.lock:
            self.unflushed[path] = min(size, self.unflushed.get(path, size))

    def _fsync(self, file: Any) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        path = self._inside(descriptor)
        if path is None:
            self.real["fsync"](descriptor)
        else:
            with self.lock:
                self._perform("fsync", path, partial(self._flushed, path))

    def _flushed(self, path: str) -> None:
        # Not really flushed: nothing here survives a true power cut, and it takes long.
        self.unflushed.pop(path, None)
        for change in self.changes.pop(path, []):
            self._saved(change.path)

    def _replace(self, source: Any, target: Any, **kw: Any) -> None:
        old, new = self._inside(source), self._inside(target)
        act = partial(self.real["replace"], source, target, **kw)
        if old is None or new is None:
            act()
        else:
            with self.lock:
                self._perform("rename", new, partial(self._renamed, old, new, act))

    def _renamed(self, source: str, target: str, act: Callable[[], None]) -> None:
        before = _content(target)
        act()
        self.unflushed.pop(target, None)
        if source in self.unflushed:
            self.unflushed[target] = self.unflushed.pop(source)
        self._changed(Change(target, source, before))
        if self.fault is None or self.fault.effect != "power":
            self._saved(target)

    def _unlink(self, path: Any, *args: Any, **kw: Any) -> None:
        inside = self._inside(path, kw.get("dir_fd"))
        act = partial(self.real["unlink"], path, *args, **kw)
        if inside is None or not os.path.exists(inside):
            act()
        else:
            with self.lock:
                self._perform("unlink", inside, partial(self._unlinked, inside, act))

    def _unlinked(self, path: str, act: Callable[[], None]) -> None:
        before = _content(path)
        act()
        self.unflushed.pop(path, None)
        self._changed(Change(path, None, before))

    # The memory

    def _inside(self, file: Any, folder: int | None = None) -> str | None:
        """The path of what lies in the folder that matters."""
        if isinstance(file, int):
            path = os.readlink(f"/proc/self/fd/{file}")
        else:
            path = os.fsdecode(file)
            if folder is not None:
                path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
            path = os.path.abspath(path)
        return path if path == self.root or path.startswith(self.root + os.sep) else None

    def _changed(self, change: Change) -> None:
        self.changes.setdefault(os.path.dirname(change.path), []).append(change)

    def _saved(self, path: str) -> None:
        name = os.path.basename(path)
        if name.endswith(".ckpt") and not name.startswith(".") and os.path.exists(path):
            folder = self.diary / "saves"
            folder.mkdir(exist_ok=True)
            os.link(path, folder / f"{os.getpid()}-{len(os.listdir(folder))}")

    def _lose(self, chance: random.Random) -> None:
        for path, start in sorted(self.unflushed.items()):
            if (content := _content(path)) is not None:
                kept = chance.randint(min(start, len(content)), len(content))
                zeros = bytes(len(content) - kept) if chance.random() < 0.5 else b""
                self._put(path, content[:kept] + zeros)
        for _, changes in sorted(self.changes.items()):
            for change in reversed(changes[chance.randint(0, len(changes)) :]):
                if change.source is not None:
                    self.real["replace"](change.path, change.source)
                elif os.path.exists(change.path):
                    self.real["unlink"](change.path)
                if change.before is not None:
                    self._put(change.path, change.before)

    def _put(self, path: str, content: bytes) -> None:
        """As a new file: the diary's links keep the old one's bytes."""
        if os.path.exists(path):
            self.real["unlink"](path)
        with self.real_open(path, "wb") as file:
            file.write(content)


class _Tracked(io.FileIO):
    """A file whose writes, those that reach the kernel, pass by the disk."""

    def __init__(self, disk: Disk, file: Any, mode: str, **kw: Any) -> None:
        super().__init__(file, mode, **kw)
        self._disk = disk

    def _path(self) -> str:
        return os.readlink(f"/proc/self/fd/{self.fileno()}")

    def write(self, data: Any) -> int:
        at = os.fstat(self.fileno()).st_size if self.mode.startswith("a") else self.tell()
        return self._disk.write(self._path(), at, memoryview(data).cast("B"), super().write)

    def truncate(self, size: int | None = None) -> int:
        size = super().truncate(size)
        self._disk.truncated(self._path(), size)
        return size


def _raw(kw: dict[str, Any]) -> dict[str, Any]:
    return {name: kw[name] for name in ("closefd", "opener") if name in kw}


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
