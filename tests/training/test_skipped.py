"""Broken images in a run: counted once, listed in its folder and on its page."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn, zeros

from tests.conftest import TINY, Compose, Script
from tests.training.runs import assert_same_end, train_and_kill
from vgglab.cluster.preemption import Preemption
from vgglab.config.schema import TrainConfig, parse
from vgglab.errors import InputError
from vgglab.reporting.record import read_skipped
from vgglab.reporting.skipped import write_skipped
from vgglab.training import skipped
from vgglab.training.assembly import build_trainer
from vgglab.training.run import train
from vgglab.training.skipped import SkippedImages

MODULE: Any = nn.Module()
Gather = Callable[[list[Any], Any], None]


def trainer(rank: int = 0, world_size: int = 1, **found: list[str]) -> Any:
    """Whose loaders and sets have skipped what is given."""
    sources = {name: SimpleNamespace(skipped=lines) for name, lines in found.items()}
    return SimpleNamespace(
        is_global_zero=rank == 0,
        world_size=world_size,
        sanity_checking=False,
        train_dataloader=sources.get("train"),
        val_dataloaders=sources.get("val"),
        test_dataloaders=sources.get("test"),
        datamodule=SimpleNamespace(sets={"val": sources.get("kept", SimpleNamespace())}),
    )


def batch(size: int) -> tuple[Tensor, Tensor]:
    return zeros(size, 3, 8, 8), zeros(size)


def content(run_dir: Path) -> Any:
    return json.loads((run_dir / "skipped.json").read_text())


def test_what_skips_has_a_report_whoever_said_so(composed: Compose, tmp_path: Path) -> None:
    """`on_error` may be a source's own, and stand nowhere in the configuration."""
    job = parse(composed("train", *TINY, run_dir=tmp_path), TrainConfig)
    data = job.data.build("data")
    for on_error in ("raise", "skip"):
        data.on_error = on_error
        callbacks = build_trainer(job, data, None, Preemption()).callbacks  # type: ignore[attr-defined]
        assert any(isinstance(c, SkippedImages) for c in callbacks) == (on_error == "skip")


def test_every_image_is_counted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = ["b: empty file"]
    run, callback = trainer(train=found, val=["a: torn"], kept=["c: torn"]), SkippedImages(tmp_path)
    callback.setup(run, MODULE, "fit")
    for _ in range(2):  # epochs
        callback.on_train_epoch_end(run, MODULE)
        callback.on_save_checkpoint(run, MODULE, {})
    assert content(tmp_path) == {"count": 3, "images": ["a: torn", "b: empty file", "c: torn"]}
    found.append("d\n\udc80: torn")
    callback.on_save_checkpoint(run, MODULE, {})
    callback.on_train_epoch_end(run, MODULE)
    assert content(tmp_path)["images"][3:] == ["d\\n\\udc80: torn"]
    (line,) = [record.message for record in caplog.records]
    assert line.startswith("3 images cannot be read and are skipped (data.on_error=skip)")
    assert line.endswith(f"{tmp_path / 'skipped.json'} lists them")


def test_a_later_attempt_adds_to_the_list(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_skipped(tmp_path, ["a: torn"])
    run, callback = trainer(train=["a: torn"]), SkippedImages(tmp_path)
    callback.setup(run, MODULE, "fit")
    callback.on_train_epoch_end(run, MODULE)
    assert caplog.records == []  # the first attempt has said it
    run.test_dataloaders = SimpleNamespace(skipped=["b: torn"])
    callback.on_test_batch_end(run, MODULE, {}, batch(3), 0)
    callback.on_test_epoch_end(run, MODULE)
    assert read_skipped(tmp_path) == ["a: torn", "b: torn"]


def test_the_first_process_writes_what_all_have_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    def gather(parts: list[Any], own: Any) -> None:
        sent.append(own[0])
        parts[:] = [own, (["a: torn", "c: torn"], 0)]

    monkeypatch.setattr(skipped, "all_gather_object", gather)
    for rank in (1, 0):
        run, callback = trainer(rank, 2, train=["a: torn", "b: torn"]), SkippedImages(tmp_path)
        callback.on_train_epoch_end(run, MODULE)
        callback.on_save_checkpoint(run, MODULE, {})
        assert sent[-2:] == [["a: torn", "b: torn"], []]  # only what is new travels
        assert (tmp_path / "skipped.json").exists() == (rank == 0)
    assert content(tmp_path)["count"] == 3


def test_a_run_that_fails_waits_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(parts: list[Any], own: Any) -> None:
        raise AssertionError("the others may be dead")

    monkeypatch.setattr(skipped, "all_gather_object", gather)
    run, callback = trainer(0, 2, train=["a: torn"]), SkippedImages(tmp_path)
    callback.on_exception(run, MODULE, RuntimeError())
    assert read_skipped(tmp_path) == ["a: torn"]
    SkippedImages(tmp_path / "gone").on_exception(run, MODULE, OSError())  # hides nothing


def test_an_evaluation_of_broken_images_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = 0
    monkeypatch.setattr(
        skipped, "all_gather_object", lambda parts, own: parts.__setitem__(1, ([], others))
    )
    run, callback = trainer(0, 2, val=["a: torn"]), SkippedImages(tmp_path)
    for others in (0, 1):
        callback.on_validation_epoch_start(run, MODULE)
        callback.on_validation_batch_end(run, MODULE, {}, batch(0), 0)
        if others:
            callback.on_validation_epoch_end(run, MODULE)
            return
        with pytest.raises(InputError, match="none of the validation images can be read"):
            callback.on_validation_epoch_end(run, MODULE)


BROKEN = {
    "train/a/3.png": b"",
    "train/b/0.png": b"\x89PNG\r\n\x1a\n torn",
    "val/a/0.png": b"no image",
    "test/b/1.png": b"",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """root/{train,val,test}/{a,b}: few small images, of which some are broken."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 5), ("test", 3)):
        for name in "ab":
            folder = tmp_path / "tree" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    for name, content in BROKEN.items():
        (tmp_path / "tree" / name).write_bytes(content)
    return tmp_path / "tree"


def settings(tree: Path, *more: str) -> tuple[str, ...]:
    """Six batches of four images an epoch; of the test's only one is broken, in a batch of two."""
    tiny = [setting for setting in TINY if not setting.startswith("data")]
    data = ("data=image_folder", f"data.root={tree}", "data.image_size=32", "data.batch_size=4")
    files = ("data.in_memory=false", "data.num_workers=0", "data.on_error=skip")
    return (*tiny, *data, *files, *more)


def images(run_dir: Path) -> list[str]:
    """As below the tree's root."""
    return [line.partition("tree/")[2].partition(":")[0] for line in read_skipped(run_dir)]


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_run_lists_what_it_skipped(
    in_memory: bool,
    composed: Compose,
    tree: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = tmp_path / "run"
    pictures = "callbacks=[essential,pictures,pr_curves,projector]"
    kept = ("data.in_memory=true", "data.image_size=null") if in_memory else ()
    given = settings(tree, pictures, *kept)
    result = train(parse(composed("train", *given, run_dir=run_dir), TrainConfig))
    assert images(run_dir) == sorted(BROKEN)
    confusion = json.loads((run_dir / "confusion.json").read_text())["matrix"]
    assert sum(map(sum, confusion)) == 5
    assert result["test/top1"] * 5 == pytest.approx(confusion[0][0] + confusion[1][1])
    assert "Skipped images: 4" in (run_dir / "report.html").read_text()
    assert f"skipped images  4, in {run_dir / 'skipped.json'}" in capsys.readouterr().out
    mistakes = json.loads((run_dir / "mistakes.json").read_text())["mistakes"]
    assert len(mistakes) == 5 - confusion[0][0] - confusion[1][1]


def test_a_killed_run_resumes_with_its_list(
    composed: Compose, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in its only epoch: what it has met before the checkpoint it does not meet again."""
    given = settings(
        tree,
        "trainer.max_epochs=1",
        "callbacks.last_checkpoint.every_n_epochs=null",
        "callbacks.last_checkpoint.every_n_train_steps=1",
    )
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    train(parse(composed("train", *given, run_dir=undisturbed), TrainConfig))
    job = parse(composed("train", *given, run_dir=killed), TrainConfig)
    train_and_kill(job, 5, monkeypatch)
    before = images(killed)
    assert before
    resumed = composed("train", *given, "resume=auto", run_dir=killed)
    train(parse(resumed, TrainConfig))
    assert set(before) < set(BROKEN)
    assert images(killed) == images(undisturbed) == sorted(BROKEN)
    assert_same_end(undisturbed, killed)


def test_a_run_that_a_broken_image_ended_goes_on_without_it(
    composed: Compose, tree: Path, tmp_path: Path
) -> None:
    given = settings(tree, "trainer.max_epochs=1", "trainer.num_sanity_val_steps=0")
    refusing = composed("train", *given, "data.on_error=raise", run_dir=tmp_path / "run")
    job = parse(refusing, TrainConfig)
    with pytest.raises(InputError, match=r"tree/.*/\d\.png: ") as caught:
        train(job)
    assert "\n" not in str(caught.value)
    train(parse(composed("train", *given, "resume=auto", run_dir=tmp_path / "run"), TrainConfig))
    assert images(tmp_path / "run") == sorted(BROKEN)


def test_a_broken_image_is_one_line_and_exit_code_2(script: Script, tree: Path) -> None:
    done = script("train", *settings(tree, "data.on_error=raise", "data.num_workers=1"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert any(line.startswith(f"error: {tree / name}: ") for name in BROKEN)


@pytest.mark.slow
def test_two_processes_have_one_list(script: Script, tree: Path, tmp_path: Path) -> None:
    """Where one of them has a batch without an image in validation, and batch norm to exchange."""
    (tree / "val/a/2.png").write_bytes(b"no image")  # the first process's with 0.png
    given = ("accelerator=ddp_cpu", "model=vgg11_bn", "data.num_workers=1", "callbacks=default")
    done = script("train", *settings(tree, *given), "hydra.run.dir=logs/mine")
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "logs/mine"
    assert images(run_dir) == sorted([*BROKEN, "val/a/2.png"])
    confusion = json.loads((run_dir / "confusion.json").read_text())["matrix"]
    assert sum(map(sum, confusion)) == 5
    said = "4 images cannot be read and are skipped (data.on_error=skip); logs/mine/skipped.json"
    assert done.stderr.splitlines() == [f"{said} lists them"]
