import errno
import io
import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from litdata import StreamingDataset
from PIL import Image
from torchvision.transforms.v2.functional import resize

from vgglab.data.decoding import decode, decode_bytes
from vgglab.data.shards.parts import RECORDS
from vgglab.data.shards.recipe import Recipe
from vgglab.data.shards.source import ImageStream
from vgglab.data.shards.writing import Sharding
from vgglab.data.sources.digits import Digits
from vgglab.data.sources.folder import ImageFolder
from vgglab.data.sources.synthetic import Synthetic
from vgglab.errors import InputError
from vgglab.files import alone_in

AS_THEY_ARE = Sharding(Recipe(None, 90), num_workers=0)
TO_16 = Sharding(Recipe(16, 90), num_workers=0)
SKIPPING = Sharding(Recipe(None, 90), num_workers=0, on_error="skip")
CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def photos(make_tree):
    """Files of three classes, of which each has one larger image at the end."""
    return make_tree({f"train/{name}": 14 for name in CLASSES} | {f"val/{c}": 2 for c in CLASSES})


def write(data, output, how=AS_THEY_ARE):
    if not hasattr(data, "prepare_data"):
        data = ImageFolder(root=str(data))
    return list(how.write(data, output, source="test"))


def samples(folder):
    """As litdata gives them, from the first to the last."""
    dataset = StreamingDataset(str(folder))
    return [{**dataset[i], "data": bytes(dataset[i]["data"])} for i in range(len(dataset))]


def description(folder):
    return json.loads((folder / "vgglab.json").read_text())


def content(folder):
    """All files but the time that litdata notes."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for name in [name for name in found if name.endswith("index.json")]:
        found[name] = json.dumps(json.loads(found[name])["chunks"]).encode()
    return found


def files_of(split):
    return sorted(split.glob("*/*"))


def test_each_file_comes_out_once_as_it_was(photos, tmp_path):
    written = write(photos, tmp_path / "out")
    assert [(w.split, w.images, w.is_new) for w in written] == [
        ("train", 42, True),
        ("val", 6, True),
    ]
    for split in ("train", "val"):
        files, found = files_of(photos / split), samples(tmp_path / "out" / split)
        assert sorted(sample["index"] for sample in found) == list(range(len(files)))
        for sample in found:
            assert sample["data"] == files[sample["index"]].read_bytes()
            assert sample["label"] == sample["index"] * 3 // len(files)


def test_labels_order_and_names_belong_to_the_samples(photos, tmp_path):
    write(photos, tmp_path / "out")
    folder, files = tmp_path / "out/train", files_of(photos / "train")
    found, order = samples(folder), np.load(folder / "order.npy")
    assert [found[position]["index"] for position in order] == list(range(42))
    assert np.load(folder / "labels.npy").tolist() == [index // 14 for index in range(42)]
    names = (folder / "names.txt").read_text().splitlines()
    assert names == [str(file.relative_to(photos / "train")) for file in files]
    told = description(folder)
    assert told["classes"] == list(CLASSES)
    assert told["count"] == 42
    assert told["stored_bytes"] == sum(p.stat().st_size for p in folder.glob("*.bin"))
    assert told["source_bytes"] == sum(file.stat().st_size for file in files)


def test_what_the_stream_reads_are_the_files(photos, tmp_path):
    write(photos, tmp_path / "out")
    stream = ImageStream(uri=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    images = stream.load("train")
    assert images.labels.tolist() == [index // 14 for index in range(42)]
    for index, file in enumerate(files_of(photos / "train")):
        assert torch.equal(images.image(index), decode(file))
        assert str(file.relative_to(photos / "train")) in images.name(index)


@pytest.mark.parametrize("size", [(40, 23), (23, 40), (17, 17)])
def test_larger_images_are_resized_to_the_shortest_side(make_tree, tmp_path, size):
    root = make_tree({"train/a": 2, "train/b": 2}, size=size)
    for file in files_of(root / "train"):  # noise is what no JPEG keeps
        Image.linear_gradient("L").resize(size[::-1]).convert("RGB").save(file)
    write(root, tmp_path / "out", TO_16)
    files = files_of(root / "train")
    for sample in samples(tmp_path / "out/train"):
        assert sample["data"].startswith(b"\xff\xd8")
        expected = resize(decode(files[sample["index"]]), [16], antialias=True)
        stored = decode_bytes(sample["data"], "stored")
        assert stored.shape == expected.shape
        assert min(stored.shape[1:]) == 16
        assert (stored.float() - expected.float()).abs().mean() < 2
    told = description(tmp_path / "out/train")
    assert [told[name] for name in ("shortest_side", "quality", "resized")] == [16, 90, 4]


def test_smaller_images_stay_the_files_that_they_are(make_tree, tmp_path):
    root = make_tree({"train/a": 2, "train/b": 2}, size=(16, 40))
    write(root, tmp_path / "out", TO_16)
    files = files_of(root / "train")
    for sample in samples(tmp_path / "out/train"):
        assert sample["data"] == files[sample["index"]].read_bytes()
    assert description(tmp_path / "out/train")["resized"] == 0


def test_a_turned_photo_is_stored_upright(make_tree, tmp_path):
    root = make_tree({"train/a": 1, "train/b": 1}, suffix=".jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (60, 30)).save(root / "train/a/000.jpg", exif=exif)
    write(root, tmp_path / "out", TO_16)
    (data,) = [s["data"] for s in samples(tmp_path / "out/train") if s["index"] == 0]
    assert Image.open(io.BytesIO(data)).size == (16, 32)
    assert not Image.open(io.BytesIO(data)).getexif()


class FewDigits(Digits):
    def load(self, split):
        images = super().load(split)
        return images and images.subset(torch.arange(20))


@pytest.mark.parametrize(
    "data",
    [FewDigits(), Synthetic(train_size=20, val_size=5, test_size=6, height=9)],
    ids=["grey", "colour"],
)
def test_images_in_memory_become_png_files_without_loss(data, tmp_path):
    written = write(data, tmp_path / "out")
    for split in (w.split for w in written):
        images = data.load(split)
        found = samples(tmp_path / "out" / split)
        assert len(found) == len(images)
        for sample in found:
            assert sample["data"].startswith(b"\x89PNG")
            original = images.image(sample["index"])
            assert torch.equal(decode_bytes(sample["data"], ""), original.expand(3, -1, -1))
            assert sample["label"] == images.labels[sample["index"]]
    assert len(written) == (2 if isinstance(data, Digits) else 3)  # digits: no validation set


def test_a_run_s_own_splits_are_not_written(photos, tmp_path):
    data = ImageFolder(root=str(photos), validation="split", in_memory=True)
    assert [w.images for w in write(data, tmp_path / "out")] == [42, 6]
    assert data.validation == "split"


def test_shards_of_shards_have_the_same_splits_and_files(photos, tmp_path):
    """`val`, which is a run's test set, does not become one."""
    write(photos, tmp_path / "out")
    stream = ImageStream(uri=str(tmp_path / "out"), validation="split")
    assert [(w.split, w.images) for w in write(stream, tmp_path / "again")] == [
        ("train", 42),
        ("val", 6),
    ]
    for split in ("train", "val"):
        first, second = (samples(tmp_path / name / split) for name in ("out", "again"))
        assert first == second


def test_chunks_mix_the_classes(photos, tmp_path):
    write(photos, tmp_path / "out")
    found = samples(tmp_path / "out/train")
    chunks = json.loads((tmp_path / "out/train/index.json").read_text())["chunks"]
    assert [chunk["chunk_size"] for chunk in chunks] == [16, 16, 10]
    first = Counter(sample["label"] for sample in found[:16])
    assert len(first) == 3
    assert max(first.values()) < 10


@pytest.mark.parametrize(("megabytes", "expected"), [(1, 7), (2, 14), (64, 16)])
def test_a_chunk_has_about_the_megabytes(make_tree, tmp_path, megabytes, expected):
    root = make_tree({"train/a": 10, "train/b": 10}, size=(200, 222), suffix=".bmp")  # 133 kB
    write(root, tmp_path / "out", Sharding(Recipe(None, 90), megabytes, 0))
    assert description(tmp_path / "out/train")["chunk_images"] == expected


def test_what_is_written_does_not_depend_on_the_number_of_processes(photos, tmp_path):
    write(photos, tmp_path / "one")
    write(photos, tmp_path / "two", Sharding(Recipe(None, 90), num_workers=2))
    assert content(tmp_path / "one") == content(tmp_path / "two")


class Killed(BaseException):
    pass


def dying(monkeypatch, after, error):
    """Renames, the steps that change what a next start finds: those after so many fail."""
    renames, rename = 0, os.replace

    def counted(*paths):
        nonlocal renames
        renames += 1
        if renames > after:
            raise error
        rename(*paths)

    monkeypatch.setattr(os, "replace", counted)


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4, 7, 8, 9, 12, 13])
def test_a_killed_run_continues_where_it_was(make_tree, tmp_path, monkeypatch, after):
    root = make_tree({f"train/{name}": 14 for name in CLASSES}, size=(8, 8))
    with monkeypatch.context() as patch:
        dying(patch, after, Killed)
        with pytest.raises(Killed):
            write(root, tmp_path / "out")
    assert not (tmp_path / "out/train").exists()
    write(root, tmp_path / "out")
    write(root, tmp_path / "undisturbed")
    assert content(tmp_path / "out") == content(tmp_path / "undisturbed")
    assert os.listdir(tmp_path / "out") == ["train"]


@pytest.mark.parametrize("after", [0, 1, 5, 10])
def test_a_full_disk_costs_a_line_and_no_chunk(photos, tmp_path, monkeypatch, after):
    """A start that wrote no chunk leaves nothing."""
    with monkeypatch.context() as patch:
        dying(patch, after, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(InputError, match="No space left on device"):
            write(photos, tmp_path / "out")
    chunks = list((tmp_path / "out").glob("train.part/*.bin"))
    assert len(chunks) == {0: 0, 1: 0, 5: 2, 10: 3}[after]
    inodes = {chunk.name: chunk.stat().st_ino for chunk in chunks}
    write(photos, tmp_path / "out")
    assert (
        inodes.items()
        <= {
            chunk.name: chunk.stat().st_ino for chunk in (tmp_path / "out/train").glob("*.bin")
        }.items()
    )
    assert len(samples(tmp_path / "out/train")) == 42


@dataclass(frozen=True)
class Stalling(Recipe):
    """Waits in its second part."""

    count: list[None] = field(default_factory=list)

    def stored(self, data, name):
        self.count.append(None)
        if len(self.count) == 32 + 20:  # 32 told how many make a chunk, and that has 16
            time.sleep(3)
        return super().stored(data, name)


def test_a_killed_start_leaves_done_parts_that_are_not_written_again(photos, tmp_path):
    """Killed for good, while its worker is in the middle of a part."""
    stalling = Sharding(Stalling(16, 90), num_workers=1)
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=write, args=(photos, tmp_path / "out", stalling))
    child.start()
    part = tmp_path / "out/train.part"
    deadline = time.monotonic() + 60
    while not (part / RECORDS / "0.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    child.join()
    (chunk,) = part.glob("*.bin")
    inode = chunk.stat().st_ino
    write(photos, tmp_path / "out", TO_16)
    assert (tmp_path / "out/train" / chunk.name).stat().st_ino == inode
    write(photos, tmp_path / "undisturbed", TO_16)
    assert content(tmp_path / "out") == content(tmp_path / "undisturbed")


@dataclass(frozen=True)
class Deadly(Recipe):
    def stored(self, data, name):
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().stored(data, name)


def test_a_killed_worker_is_told_and_the_next_start_continues(photos, tmp_path):
    with pytest.raises(InputError, match="a worker process was killed"):
        write(photos, tmp_path / "out", Sharding(Deadly(None, 90), num_workers=2))
    write(photos, tmp_path / "out")
    assert len(samples(tmp_path / "out/train")) == 42


def broken(photos):
    files = [photos / f"train/{name}" for name in ("bee/003.png", "cat/000.png")]
    for file in files:
        file.write_bytes(file.read_bytes()[:200])
    return files


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_ends_it_by_its_name_and_leaves_nothing(photos, tmp_path, workers):
    broken(photos)
    with pytest.raises(InputError, match=r"(bee/003|cat/000)\.png: .*on_error=skip leaves it out"):
        write(photos, tmp_path / "a/b", Sharding(Recipe(None, 90), num_workers=workers))
    assert not (tmp_path / "a").exists() or list((tmp_path / "a").rglob("[0-9]*.json"))


def test_broken_images_are_skipped_and_listed(photos, tmp_path):
    first, second = broken(photos)
    (written, _) = write(photos, tmp_path / "out", SKIPPING)
    folder, files = tmp_path / "out/train", files_of(photos / "train")
    assert [line.split(": ")[0] for line in description(folder)["skipped"]] == [
        str(first),
        str(second),
    ]
    assert written.images == description(folder)["count"] == 40
    assert str(written).endswith("; 2 skipped")
    whole = [file for file in files if file not in (first, second)]
    found, order = samples(folder), np.load(folder / "order.npy")
    assert [found[position]["data"] for position in order] == [file.read_bytes() for file in whole]
    names = (folder / "names.txt").read_text().splitlines()
    assert names == [str(file.relative_to(photos / "train")) for file in whole]
    labels = [CLASSES.index(file.parent.name) for file in whole]
    assert np.load(folder / "labels.npy").tolist() == labels
    stream = ImageStream(uri=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert torch.equal(stream.load("train").image(39), decode(whole[39]))


def test_a_chunk_whose_images_are_all_broken_is_left_out(photos, tmp_path):
    order = torch.randperm(42, generator=torch.Generator().manual_seed(0)).tolist()
    files = files_of(photos / "train")
    for index in order[16:32]:
        files[index].write_bytes(b"no image")
    write(photos, tmp_path / "out", SKIPPING)
    assert [sample["index"] for sample in samples(tmp_path / "out/train")] == order[:16] + order[
        32:
    ]


def test_no_image_at_all_is_refused(photos, tmp_path):
    for file in files_of(photos / "train"):
        file.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"no image can be read; the first: .*ant/000\.png"):
        write(photos, tmp_path / "out", SKIPPING)


def test_repaired_images_come_in_after_all(photos, tmp_path, monkeypatch):
    """What was skipped is tried again by a start that skips nothing."""
    (file, _) = files = broken(photos)
    with monkeypatch.context() as patch:
        dying(patch, 7, Killed)
        with pytest.raises(Killed):
            write(photos, tmp_path / "out", SKIPPING)
    with pytest.raises(InputError, match=r"\.png"):
        write(photos, tmp_path / "out")
    for file in files:
        Image.new("RGB", (3, 3)).save(file)
    write(photos, tmp_path / "out")
    assert len(samples(tmp_path / "out/train")) == 42
    assert not description(tmp_path / "out/train")["skipped"]


OTHERS = {
    "shortest_side=null, not 16": TO_16,
    "chunk_megabytes=64, not 32": Sharding(Recipe(None, 90), 32, 0),
}


@pytest.mark.parametrize("complete", [True, False], ids=["complete", "begun"])
@pytest.mark.parametrize("says", OTHERS)
def test_other_settings_are_refused(photos, tmp_path, monkeypatch, complete, says):
    if complete:
        write(photos, tmp_path / "out")
    else:
        with monkeypatch.context() as patch:
            dying(patch, 7, Killed)
            with pytest.raises(Killed):
                write(photos, tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(InputError, match=says):
        write(photos, tmp_path / "out", OTHERS[says])
    assert content(tmp_path / "out") == before


def test_other_images_and_other_folders_are_refused(photos, make_tree, tmp_path):
    write(photos, tmp_path / "out")
    (photos / "train/ant/new.png").write_bytes((photos / "train/ant/000.png").read_bytes())
    with pytest.raises(InputError, match="other images"):
        write(photos, tmp_path / "out")
    with pytest.raises(InputError, match="is no folder of shards"):
        write(photos, photos)


def test_what_is_complete_is_left_alone(photos, tmp_path):
    write(photos, tmp_path / "out")
    (tmp_path / "out/train" / RECORDS).mkdir()  # of a start that was killed at its very end
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.*") if p.is_file()}
    again = write(photos, tmp_path / "out")
    assert not any(written.is_new for written in again)
    assert "complete since an earlier start" in str(again[0])
    assert {
        p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.*") if p.is_file()
    } == times
    assert not (tmp_path / "out/train" / RECORDS).exists()


def test_two_at_once_are_refused(photos, tmp_path):
    records = tmp_path / "out/train.part" / RECORDS
    records.mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    inside, end = context.Event(), context.Event()

    def stay():
        with alone_in(records):
            inside.set()
            end.wait(60)

    child = context.Process(target=stay)
    child.start()
    assert inside.wait(60)
    try:
        with pytest.raises(InputError, match="another process writes there"):
            write(photos, tmp_path / "out")
        assert records.exists()
    finally:
        end.set()
        child.join()


def test_litdata_missing_is_told(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("vgglab.extras.find_spec", lambda name: None)
    with pytest.raises(InputError, match="uv sync --extra stream"):
        write(photos, tmp_path / "out")
