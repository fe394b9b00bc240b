"""Files that are whole or absent, and whose damage shows."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from vgglab.errors import InputError
from vgglab.files import (
    alone_in,
    digest,
    earlier,
    is_damaged,
    is_occupied,
    read_json,
    remove,
    remove_leftovers,
    replace_file,
    replacing,
    seal,
)


def write(path: Path, content: bytes, *, sealed: bool = True, keep: int = 0) -> None:
    with replacing(path, sealed=sealed, keep=keep) as temporary:
        temporary.write_bytes(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_seal_is_what_sha256sum_checks(tmp_path: Path) -> None:
    write(tmp_path / "a.ckpt", b"one")
    write(tmp_path / "a.ckpt", b"two")
    assert names(tmp_path) == ["a.ckpt", "a.ckpt.sha256"]
    command = ["sha256sum", "--check", "--strict", "a.ckpt.sha256"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "a.ckpt: OK\n"


def test_one_changed_bit_or_a_cut_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    write(path, bytes(1000))
    assert is_damaged(path) is False
    path.write_bytes(bytes(999) + b"\x01")
    assert is_damaged(path) is True
    path.write_bytes(bytes(999))
    assert is_damaged(path) is True
    seal(path).unlink()
    assert is_damaged(path) is None


def test_predecessors_stay_with_their_seals(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for content in (b"1", b"2", b"3", b"4"):
        write(path, content, keep=2)
    kept = [path, tmp_path / "last-1.ckpt", tmp_path / "last-2.ckpt"]
    assert [earlier(path, age) for age in range(3)] == kept
    assert [file.read_bytes() for file in kept] == [b"4", b"3", b"2"]
    assert [is_damaged(file) for file in kept] == [False] * 3
    assert len(names(tmp_path)) == 6


def test_an_unsealed_successor_has_no_stale_seal(tmp_path: Path) -> None:
    write(tmp_path / "a", b"sealed", keep=1)
    write(tmp_path / "a", b"not", sealed=False, keep=1)
    write(tmp_path / "a", b"nor this", sealed=False, keep=1)
    assert names(tmp_path) == ["a", "a-1"]


def test_an_error_while_writing_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a", b"old", keep=1)
    with suppress(ZeroDivisionError), replacing(tmp_path / "a", keep=1) as temporary:
        temporary.write_bytes(b"new")
        raise ZeroDivisionError
    assert names(tmp_path) == ["a", "a.sha256"]
    assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize("keep", [0, 2])
def test_between_any_two_operations_a_valid_file_is_there(
    keep: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    checks = 0

    def check(allowed: set[bytes]) -> None:
        nonlocal checks
        checks += 1
        found = [file for file in tmp_path.glob("*") if file.suffix == ".ckpt"]
        assert found
        assert all(is_damaged(file) is not True for file in found)
        assert {file.read_bytes() for file in found} <= allowed
        assert keep or path.exists()

    def watched(operation: Callable[..., object]) -> Callable[..., object]:
        def watch(*arguments: object, **named: object) -> object:
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", fsync)
                patch.setattr(os, "replace", replace)
                check(allowed)
            result = operation(*arguments, **named)
            check(allowed)
            return result

        return watch

    fsync, replace = os.fsync, os.replace
    contents = [bytes([number]) * 100 for number in range(5)]
    write(path, contents[0], keep=keep)
    allowed = {contents[0]}
    for content in contents[1:]:
        allowed.add(content)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", watched(fsync))
            patch.setattr(os, "replace", watched(replace))
            write(path, content, keep=keep)
        assert path.read_bytes() == content
    assert checks > 50


def test_what_is_renamed_was_flushed_and_so_is_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, str]] = []
    opened: dict[int, str] = {}
    real_open, fsync, replace = os.open, os.fsync, os.replace

    def note_open(path: Path, *arguments: int) -> int:
        descriptor = real_open(path, *arguments)
        opened[descriptor] = str(path)
        return descriptor

    def note_fsync(descriptor: int) -> None:
        fsync(descriptor)
        events.append(("flush", opened[descriptor]))

    def note_replace(source: Path, target: Path) -> None:
        replace(source, target)
        events.append((str(source), str(target)))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", note_open)
        patch.setattr(os, "fsync", note_fsync)
        patch.setattr(os, "replace", note_replace)
        replace_file(tmp_path / "a", b"content")
    (first, temporary), (renamed, target), (last, folder) = events
    assert (first, renamed, target) == ("flush", temporary, str(tmp_path / "a"))
    assert (last, folder) == ("flush", str(tmp_path))


def test_leftovers_of_killed_writers_go(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as temporary:
        temporary.write_bytes(b"half")
        torn = temporary.read_bytes()
        name = temporary.name
    (tmp_path / name).write_bytes(torn)
    (tmp_path / ".hidden").write_bytes(b"mine")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".hidden", "a"]


def test_a_file_goes_with_its_seal(tmp_path: Path) -> None:
    write(tmp_path / "a", b"content")
    remove(tmp_path / "a")
    remove(tmp_path / "a")
    assert names(tmp_path) == []


def test_digests_are_those_of_the_standard(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")  # FIPS 180-2, appendix B.1; RFC 1321, appendix A.5
    assert digest(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223b00361a3")
    assert digest(tmp_path / "a", "md5") == "900150983cd24fb0d6963f7d28e17f72"


def test_who_is_in_a_folder_is_told_to_others(tmp_path: Path) -> None:
    assert not is_occupied(tmp_path)
    with alone_in(tmp_path):
        ask = "import sys; from pathlib import Path; from vgglab.files import is_occupied as o\n"
        ask += "print(o(Path(sys.argv[1])))"
        command = [sys.executable, "-c", ask, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == "True\n"
    assert (tmp_path / ".lock").exists()
    assert not is_occupied(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff", b"[" * 100_000])
def test_what_is_no_json_of_names_and_values_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json"):
        read_json(path)
    with pytest.raises(InputError, match="missing"):
        read_json(tmp_path / "missing")
    path.write_text('{"a": [1]}')
    assert read_json(path) == {"a": [1]}
