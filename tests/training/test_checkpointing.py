"""Checkpoints on the disk."""

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vgglab.errors import InputError
from vgglab.training import checkpointing
from vgglab.training.checkpointing import CheckpointWriter, checkpoint_to_resume


def content(step: int, size: int = 3) -> dict[str, Any]:
    parts: dict[str, Any] = {name: {} for name in ("optimizer_states", "lr_schedulers", "loops")}
    return {**parts, "global_step": step, "state_dict": {"network.x": torch.zeros(size)}}


def save(path: Path, step: int, keep: int = 0) -> None:
    CheckpointWriter().save_checkpoint(content(step), path, {"keep": keep})


def resumed(resume: str, folder: Path) -> Path | None:
    start = checkpoint_to_resume(resume, folder)
    return None if start is None else start.path


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_is_saved_is_read_back(asynchronous: bool, tmp_path: Path) -> None:
    writer = CheckpointWriter(asynchronous=asynchronous)
    writer.save_checkpoint({"global_step": 3, "x": torch.arange(3)}, tmp_path / "deep/a.ckpt")
    found = writer.load_checkpoint(tmp_path / "deep/a.ckpt")
    assert found["global_step"] == 3
    assert torch.equal(found["x"], torch.arange(3))
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == [
        "a.ckpt",
        "a.ckpt.sha256",
    ]
    writer.teardown()


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_earlier_file(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.ckpt", 1)
    before = (tmp_path / "a.ckpt").read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(InputError, match=r"a\.ckpt: No space left on device; .* intact"):
        save(tmp_path / "a.ckpt", 2)
    assert (tmp_path / "a.ckpt").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt", "a.ckpt.sha256"]
    assert resumed("auto", tmp_path) == tmp_path / "a.ckpt"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_ends_with_one_message(asynchronous: bool, full_disk: Path) -> None:
    writer = CheckpointWriter(asynchronous=asynchronous)
    writer.save_checkpoint(content(1, size=100_000), full_disk / "a.ckpt")
    writer.wait()
    before = (full_disk / "a.ckpt").read_bytes()

    def save_big() -> None:
        writer.save_checkpoint(content(2, size=1_000_000), full_disk / "a.ckpt")
        writer.wait()

    message = r"^cannot write the checkpoint .*a\.ckpt: No space left on device; what .* intact$"
    with pytest.raises(InputError, match=message):
        save_big()
    assert (full_disk / "a.ckpt").read_bytes() == before
    assert sorted(path.name for path in full_disk.iterdir()) == ["a.ckpt", "a.ckpt.sha256"]
    assert resumed("auto", full_disk) == full_disk / "a.ckpt"


def test_training_may_change_what_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write = threading.Event()
    original = checkpointing.save

    def slow_save(*arguments: object) -> None:
        assert may_write.wait(60)
        original(*arguments)

    monkeypatch.setattr(checkpointing, "save", slow_save)
    writer = CheckpointWriter(asynchronous=True)
    weights = torch.zeros(10)
    writer.save_checkpoint({"global_step": 1, "nested": [{"x": weights}]}, tmp_path / "a.ckpt")
    weights += 1
    assert not (tmp_path / "a.ckpt").exists()
    may_write.set()
    assert torch.equal(
        writer.load_checkpoint(tmp_path / "a.ckpt")["nested"][0]["x"], torch.zeros(10)
    )
    writer.teardown()


def test_a_predecessor_goes_only_after_its_successor_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = CheckpointWriter(asynchronous=True)
    writer.save_checkpoint(content(1), tmp_path / "1.ckpt")
    writer.wait()
    with monkeypatch.context() as patch:

        def full(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", full)
        writer.save_checkpoint({"global_step": 2}, tmp_path / "2.ckpt")
        writer.remove_checkpoint(tmp_path / "1.ckpt")
        with pytest.raises(InputError, match="No space left"):
            writer.teardown()
    assert resumed("auto", tmp_path) == tmp_path / "1.ckpt"
    writer = CheckpointWriter(asynchronous=True)
    writer.save_checkpoint({"global_step": 2}, tmp_path / "2.ckpt")
    writer.remove_checkpoint(tmp_path / "1.ckpt")
    writer.teardown()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.ckpt", "2.ckpt.sha256"]


def test_a_failed_save_is_reported_before_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    writer = CheckpointWriter(asynchronous=True)
    monkeypatch.setattr(os, "fsync", full)
    writer.save_checkpoint({"global_step": 1}, tmp_path / "a.ckpt")

    def train_on() -> None:
        for _ in range(600):
            writer.raise_if_failed()
            threading.Event().wait(0.1)

    with pytest.raises(InputError, match="No space left"):
        train_on()
    writer.teardown()


def test_code_in_a_checkpoint_is_refused_whatever_is_asked_for(tmp_path: Path) -> None:
    torch.save({"global_step": 1, "code": os.getcwd}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"a\.ckpt"):
        CheckpointWriter().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)


def test_auto_takes_the_most_trained_valid_one(tmp_path: Path) -> None:
    assert resumed("auto", tmp_path) is None
    save(tmp_path / "best.ckpt", 20)
    save(tmp_path / "last.ckpt", 30)
    assert resumed("auto", tmp_path) == tmp_path / "last.ckpt"
    save(tmp_path / "best.ckpt", 30)
    os.utime(tmp_path / "last.ckpt")
    assert resumed("auto", tmp_path) == tmp_path / "last.ckpt"
    (tmp_path / "last.ckpt").write_bytes((tmp_path / "last.ckpt").read_bytes()[:-100])
    assert resumed("auto", tmp_path) == tmp_path / "best.ckpt"


def test_an_altered_checkpoint_is_named_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (10, 20, 30):
        save(tmp_path / "last.ckpt", step, keep=1)
    torch.save(content(99), tmp_path / "last.ckpt")  # a valid file
    assert resumed("auto", tmp_path) == tmp_path / "last-1.ckpt"
    assert "last.ckpt is torn or was altered" in caplog.text
    with pytest.raises(InputError, match=r"last\.ckpt is torn or was altered: its checksum"):
        resumed(str(tmp_path / "last.ckpt"), tmp_path)


def test_auto_starts_nothing_over_damaged_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"PK\x03\x04 not much")
    with pytest.raises(InputError, match="none of the checkpoints"):
        resumed("auto", tmp_path)


def test_a_named_checkpoint_must_be_one(tmp_path: Path) -> None:
    save(tmp_path / "a.ckpt", 1)
    assert resumed(str(tmp_path / "a.ckpt"), tmp_path / "else") == tmp_path / "a.ckpt"
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="weights="):
        resumed(str(tmp_path / "weights.pth"), tmp_path)
    with pytest.raises(InputError, match="nowhere"):
        resumed(str(tmp_path / "nowhere.ckpt"), tmp_path)


@pytest.mark.parametrize("missing", ["state_dict", "optimizer_states", "lr_schedulers", "loops"])
def test_a_checkpoint_without_a_part_is_refused(missing: str, tmp_path: Path) -> None:
    """Lightning would begin that part anew without a word."""
    torch.save({k: v for k, v in content(1).items() if k != missing}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=rf"has no {missing}: a run cannot continue from it"):
        resumed(str(tmp_path / "a.ckpt"), tmp_path)


def test_a_folder_that_is_further_is_not_set_back(tmp_path: Path) -> None:
    """Its history would be another run's than its newest checkpoint."""
    for step in (10, 20):
        save(tmp_path / "last.ckpt", step, keep=1)
    with pytest.raises(InputError, match=r"is further than .*last-1\.ckpt; branch off in another"):
        resumed(str(tmp_path / "last-1.ckpt"), tmp_path)
    assert resumed(str(tmp_path / "last-1.ckpt"), tmp_path / "other") == tmp_path / "last-1.ckpt"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_could_not_be_resumed_from_is_not_saved(asynchronous: bool, tmp_path: Path) -> None:
    save(tmp_path / "last.ckpt", 1)
    writer = CheckpointWriter(asynchronous=asynchronous)
    bad = {**content(2), "callbacks": {"mine": {"best": np.float64(1.5)}}}

    def write() -> None:
        writer.save_checkpoint(bad, tmp_path / "last.ckpt")
        writer.wait()

    with pytest.raises(InputError, match=r"last\.ckpt: the state of callbacks .* plain Python"):
        write()
    assert resumed("auto", tmp_path) == tmp_path / "last.ckpt"
