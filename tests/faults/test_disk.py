"""The disk that fails: what it loses, what it keeps, and that it strikes where it was told."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.disk import Disk, Fault

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

Write = Callable[[Path], None]


def write_on(root: Path, fault: Fault | None, write: Write) -> int:
    """The exit code of a process that writes into `root` on such a disk."""
    root.mkdir(exist_ok=True)
    diary = root.with_name("diary")
    diary.mkdir(exist_ok=True)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            disk = Disk(root, diary, fault)
            disk.install()
            write(root)
            disk.write_counts()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def carefully(root: Path, data: bytes = b"new" * 100) -> None:
    with (root / "tmp").open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(root / "tmp", root / "model.ckpt")
    flush(root)
    (root / "end").touch()


def without_flushing(root: Path) -> None:
    (root / "tmp").write_bytes(b"new" * 100)
    os.replace(root / "tmp", root / "model.ckpt")
    (root / "end").touch()


def in_place(root: Path) -> None:
    (root / "model.ckpt").write_bytes(b"new" * 100)
    (root / "end").touch()


def after_power_cuts(tmp_path: Path, write: Write) -> set[bytes | None]:
    """What a file that held "old" holds after a power cut at the end of `write`, at many seeds."""
    found: set[bytes | None] = set()
    for seed in range(40):
        root = tmp_path / str(seed) / "root"
        root.mkdir(parents=True)
        target = root / "model.ckpt"
        target.write_bytes(b"old")
        fault = Fault("power", "open", "other", 1 + (write is not in_place), "before", seed)
        assert write_on(root, fault, write) == -signal.SIGKILL
        found.add(target.read_bytes() if target.exists() else None)
    return found


def test_what_was_flushed_stays(tmp_path: Path) -> None:
    assert after_power_cuts(tmp_path, carefully) == {b"new" * 100}


def test_what_was_not_flushed_may_be_torn_or_not_renamed(tmp_path: Path) -> None:
    found = after_power_cuts(tmp_path, without_flushing)
    assert b"old" in found
    assert any(b"\0" in content for content in found if content)
    assert any(content != b"old" and len(content) < 300 for content in found if content is not None)


def test_writing_in_place_loses_the_old_and_the_new(tmp_path: Path) -> None:
    found = after_power_cuts(tmp_path, in_place)
    assert b"old" not in found
    assert len(found) > 10


@pytest.mark.parametrize(
    ("when", "left"), [("before", b""), ("within", b"n" * 50), ("after", b"n" * 100)]
)
def test_a_kill_strikes_around_and_within_a_write(when: str, left: bytes, tmp_path: Path) -> None:
    fault = Fault("kill", "write", "checkpoint", 1, when, 0)

    def write(root: Path) -> None:
        (root / "model.ckpt").write_bytes(b"n" * 100)

    assert write_on(tmp_path / "root", fault, write) == -signal.SIGKILL
    assert (tmp_path / "root/model.ckpt").read_bytes() == left


def test_a_full_disk_stays_full(tmp_path: Path) -> None:
    fault = Fault("full", "write", "history", 2, "before", 0)

    def write(root: Path) -> None:
        history = root / "metrics.csv"
        history.write_text("step\n")
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"), history.open("a") as file:
                file.write("0\n")
        history.unlink()

    assert write_on(tmp_path / "root", fault, write) == 0


def test_it_counts_what_reaches_the_kernel(tmp_path: Path) -> None:
    assert write_on(tmp_path / "root", None, carefully) == 0
    assert json.loads((tmp_path / "diary/operations.json").read_text()) == [
        ["fsync", "folder", 1],
        ["fsync", "other", 1],
        ["open", "other", 2],
        ["rename", "checkpoint", 1],
        ["write", "other", 1],
    ]
    assert any((tmp_path / "diary/saves").iterdir())
