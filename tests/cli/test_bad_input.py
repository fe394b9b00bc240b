"""Bad input: one line that helps, exit code 2, and nothing left on the disk."""

from pathlib import Path

import pytest

from tests.conftest import TINY, Script

# What the user typed, and what the line must say. More of them in tests/config, without a process.
REFUSED = {
    "unknown model": (["model=vgg61"], ["model=vgg61", "did you mean vgg1", "vgg16", "conf/model"]),
    "unknown setting": (["trainer.max_epoch=3"], ["did you mean max_epochs?", "precision"]),
    "added setting": (["+trainer.max_epoch=3"], ["did you mean max_epochs?", "precision"]),
    "not a number": (["optimizer.lr=abc"], ["optimizer.lr='abc'", "number"]),
    "negative batch": (["data.batch_size=-1"], ["data.batch_size=-1", "greater than 0"]),
    "no data folder": (["data=image_folder", "data.root=nowhere"], ["nowhere"]),
    "no data root": (["data=image_folder"], ["data.root is required"]),
    "no checkpoint": (["resume=nowhere.ckpt"], ["nowhere.ckpt"]),
    "labels outside": (["model.num_classes=3"], ["model.num_classes=3", "labels 0 to 9"]),
    "program": (["optimizer._target_=os.system"], ["os.system", "allowed_targets"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_exit_code_2(case: str, script: Script, tmp_path: Path) -> None:
    overrides, expected = REFUSED[case]
    done = script("train", *overrides)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for part in expected:
        assert part in line
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_an_unreadable_checkpoint_is_named(script: Script, tmp_path: Path) -> None:
    (tmp_path / "torn.ckpt").write_bytes(b"PK\x03\x04" + bytes(100))
    for name in ("evaluate", "predict"):
        images = ["images=."] if name == "predict" else []
        done = script(name, "checkpoint=torn.ckpt", *images)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1
    done = script("train", *TINY, "resume=torn.ckpt")
    assert done.returncode == 2, done.stderr
    assert "torn.ckpt" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["torn.ckpt"]


def test_a_used_folder_is_left_as_it_was(script: Script, tmp_path: Path) -> None:
    folder = tmp_path / "logs/mine"
    folder.mkdir(parents=True)
    (folder / "precious.txt").write_text("kept")
    done = script("train", "hydra.run.dir=logs/mine", "optimizer.lr=abc")
    assert done.returncode == 2
    assert [path.name for path in folder.iterdir()] == ["precious.txt"]
