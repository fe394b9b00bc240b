"""Checkpoints on the disk."""

import os
from pathlib import Path

import pytest
import torch

from vgglab.errors import InputError
from vgglab.training.checkpointing import AtomicCheckpointIO, checkpoint_to_resume


def save(path: Path, step: int) -> None:
    AtomicCheckpointIO().save_checkpoint({"global_step": step, "x": torch.arange(3)}, path)


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    save(tmp_path / "deep/a.ckpt", 3)
    found = AtomicCheckpointIO().load_checkpoint(tmp_path / "deep/a.ckpt")
    assert found["global_step"] == 3
    assert torch.equal(found["x"], torch.arange(3))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_earlier_file(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.ckpt", 1)
    before = (tmp_path / "a.ckpt").read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(InputError, match="No space left"):
        save(tmp_path / "a.ckpt", 2)
    assert (tmp_path / "a.ckpt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_code_in_a_checkpoint_is_refused_whatever_is_asked_for(tmp_path: Path) -> None:
    torch.save({"global_step": 1, "code": os.getcwd}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"a\.ckpt"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)


def test_auto_takes_the_most_trained_readable_one(tmp_path: Path) -> None:
    assert checkpoint_to_resume("auto", tmp_path) is None
    save(tmp_path / "best.ckpt", 20)
    save(tmp_path / "last.ckpt", 30)
    assert checkpoint_to_resume("auto", tmp_path) == tmp_path / "last.ckpt"
    save(tmp_path / "best.ckpt", 30)
    os.utime(tmp_path / "last.ckpt")
    assert checkpoint_to_resume("auto", tmp_path) == tmp_path / "last.ckpt"
    (tmp_path / "last.ckpt").write_bytes((tmp_path / "last.ckpt").read_bytes()[:-100])
    assert checkpoint_to_resume("auto", tmp_path) == tmp_path / "best.ckpt"


def test_a_named_checkpoint_must_be_one(tmp_path: Path) -> None:
    save(tmp_path / "a.ckpt", 1)
    assert checkpoint_to_resume(str(tmp_path / "a.ckpt"), tmp_path / "else") == tmp_path / "a.ckpt"
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="weights="):
        checkpoint_to_resume(str(tmp_path / "weights.pth"), tmp_path)
    with pytest.raises(InputError, match="nowhere"):
        checkpoint_to_resume(str(tmp_path / "nowhere.ckpt"), tmp_path)
