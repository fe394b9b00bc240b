import io
import os
import shutil
import tarfile

import numpy as np
import pytest
from scipy.io import savemat

from vgglab.data.sources import prepare
from vgglab.data.sources.prepare import DEVKIT_TAR, TRAIN_TAR, VAL_TAR, Counts, prepare_imagenet
from vgglab.errors import InputError

WNIDS = ["n00000003", "n00000001", "n00000002"]  # ILSVRC ids 1, 2, 3
TRAIN = {"n00000003": 4, "n00000001": 2, "n00000002": 3}
TRUTH = [2, 1, 3, 3, 1]
COUNTS = Counts(classes=3, train=9, val=5)


def tar_bytes(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def class_tar(wnid, count):
    return tar_bytes((f"{wnid}_{i}.JPEG", f"{wnid} {i}".encode() * 100) for i in range(count))


def write_train(folder, members):
    (folder / TRAIN_TAR).write_bytes(tar_bytes(members))


def write_devkit(folder, truth=TRUTH, wnids=WNIDS):
    rows = [(i + 1, wnid, "words", "gloss", 0) for i, wnid in enumerate(wnids)]
    rows.append((len(wnids) + 1, "n00000009", "an inner node", "gloss", 2))
    kinds = [
        ("ILSVRC2012_ID", "f8"),
        ("WNID", "O"),
        ("words", "O"),
        ("gloss", "O"),
        ("num_children", "f8"),
    ]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=kinds)})
    labels = "".join(f"{i}\n" for i in truth).encode()
    data = "ILSVRC2012_devkit_t12/data"
    plain = tar_bytes(
        [
            (f"{data}/meta.mat", meta.getvalue()),
            (f"{data}/ILSVRC2012_validation_ground_truth.txt", labels),
        ]
    )
    with (
        tarfile.open(folder / DEVKIT_TAR, "w:gz") as out,
        tarfile.open(fileobj=io.BytesIO(plain)) as tar,
    ):
        for member in tar:
            out.addfile(member, tar.extractfile(member))


@pytest.fixture
def archives(tmp_path):
    folder = tmp_path / "archives"
    folder.mkdir()
    write_train(folder, [(f"{wnid}.tar", class_tar(wnid, n)) for wnid, n in TRAIN.items()])
    val = [(f"ILSVRC2012_val_{i:08d}.JPEG", f"val {i}".encode()) for i in range(1, 6)]
    (folder / VAL_TAR).write_bytes(tar_bytes(val))
    write_devkit(folder)
    return folder


def content(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


EXPECTED = {
    f"train/{wnid}/{wnid}_{i}.JPEG": f"{wnid} {i}".encode() * 100
    for wnid, count in TRAIN.items()
    for i in range(count)
} | {
    f"val/{WNIDS[label - 1]}/ILSVRC2012_val_{i:08d}.JPEG": f"val {i}".encode()
    for i, label in enumerate(TRUTH, 1)
}


def test_the_folders_are_built(archives, tmp_path):
    prepare_imagenet(archives, tmp_path / "out", counts=COUNTS)
    assert content(tmp_path / "out") == EXPECTED
    assert sorted(os.listdir(tmp_path / "out")) == ["train", "val"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", range(14))
def test_a_killed_run_continues_where_it_was(archives, tmp_path, monkeypatch, after):
    """Killed in the middle of any file; the next run ends with the same bytes."""
    copied = 0

    def dying(copy):
        def wrapped(source, target, *args):
            nonlocal copied
            copied += 1
            if copied > after:
                target.write(b"half a fi")
                raise Killed
            return copy(source, target, *args)

        return wrapped

    for module in (shutil, tarfile):  # for validation and for training images
        monkeypatch.setattr(module, "copyfileobj", dying(module.copyfileobj))
    with pytest.raises(Killed):
        prepare_imagenet(archives, tmp_path / "out", counts=COUNTS)
    assert not (tmp_path / "out" / "train").exists()
    finished = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*_val_*.JPEG")}
    monkeypatch.undo()
    prepare_imagenet(archives, tmp_path / "out", counts=COUNTS)
    assert content(tmp_path / "out") == EXPECTED
    for path, written in finished.items():
        if not path.name.startswith("."):
            final = tmp_path / "out" / "val" / path.parent.name / path.name
            assert final.stat().st_mtime_ns == written  # not unpacked again


def test_finished_classes_are_not_unpacked_again_and_incomplete_ones_are(
    archives, tmp_path, monkeypatch
):
    part = tmp_path / "out" / "train.part"
    for wnid in ("n00000003", "n00000001"):
        (part / wnid).mkdir(parents=True)
        for i in range(TRAIN[wnid]):
            (part / wnid / f"{wnid}_{i}.JPEG").write_text("kept")
    (part / "n00000001" / "n00000001_1.JPEG").unlink()
    prepare_imagenet(archives, tmp_path / "out", counts=COUNTS)
    result = content(tmp_path / "out" / "train")
    assert result["n00000003/n00000003_0.JPEG"] == b"kept"
    assert result["n00000001/n00000001_0.JPEG"] == EXPECTED["train/n00000001/n00000001_0.JPEG"]

    monkeypatch.setattr(prepare, "open_tar", _only_the_devkit(prepare.open_tar))
    prepare_imagenet(archives, tmp_path / "out", counts=COUNTS)  # all is there: no archive is read


def _only_the_devkit(open_tar):
    def opened(archive, **bounds):
        assert archive.name == DEVKIT_TAR
        return open_tar(archive, **bounds)

    return opened


@pytest.mark.parametrize("archive", [TRAIN_TAR, VAL_TAR, DEVKIT_TAR])
def test_a_missing_archive_is_named(archives, tmp_path, archive):
    (archives / archive).unlink()
    with pytest.raises(
        InputError, match=f"archives={archives}: {archive} not there; image-net.org"
    ):
        prepare_imagenet(archives, tmp_path / "out", counts=COUNTS)
    assert not (tmp_path / "out").exists()


def test_a_class_that_is_cut_short_fails_the_count_and_a_good_archive_mends_it(archives, tmp_path):
    good = (archives / TRAIN_TAR).read_bytes()
    members = [
        (f"{wnid}.tar", class_tar(wnid, n - (wnid == "n00000002"))) for wnid, n in TRAIN.items()
    ]
    write_train(archives, members)
    with pytest.raises(InputError, match=r"train\.part holds 8 images instead of 9"):
        prepare_imagenet(archives, tmp_path / "out", counts=COUNTS)
    assert not (tmp_path / "out" / "train").exists()
    (archives / TRAIN_TAR).write_bytes(good)
    prepare_imagenet(archives, tmp_path / "out", counts=COUNTS)
    assert content(tmp_path / "out") == EXPECTED


def test_a_truncated_archive_is_refused(archives, tmp_path):
    data = (archives / TRAIN_TAR).read_bytes()
    (archives / TRAIN_TAR).write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"broken or incomplete archive|instead of 9"):
        prepare_imagenet(archives, tmp_path / "out", counts=COUNTS)
    assert not (tmp_path / "out" / "train").exists()


def test_a_finished_folder_that_lost_an_image_is_reported(archives, tmp_path):
    prepare_imagenet(archives, tmp_path / "out", counts=COUNTS)
    next((tmp_path / "out" / "val").rglob("*.JPEG")).unlink()
    with pytest.raises(InputError, match="val holds 4 images instead of 5: remove the folder"):
        prepare_imagenet(archives, tmp_path / "out", counts=COUNTS)


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        ("../../escaped.JPEG", "would leave the folder"),
        ("/tmp/escaped.JPEG", "would leave the folder"),
    ],
)
def test_members_that_would_leave_the_folder_are_refused(archives, tmp_path, member, problem):
    hostile = tar_bytes([(member, b"x")])
    write_train(archives, [("n00000003.tar", hostile)])
    with pytest.raises(InputError, match=rf"n00000003\.tar: member '{member}' {problem}"):
        prepare_imagenet(archives, tmp_path / "out", counts=COUNTS)
    (archives / VAL_TAR).write_bytes(hostile)
    with pytest.raises(InputError, match=f"{VAL_TAR}: member '{member}' {problem}"):
        prepare_imagenet(archives, tmp_path / "out2", counts=COUNTS)
    assert not list(tmp_path.rglob("escaped*"))


@pytest.mark.parametrize("name", ["../n00000003.tar", "n00000009.tar", "readme.txt", ".."])
def test_train_members_that_are_no_class_are_refused(archives, tmp_path, name):
    write_train(archives, [(name, class_tar("n00000003", 1))])
    with pytest.raises(InputError, match=f"{TRAIN_TAR}: member '{name}'"):
        prepare_imagenet(archives, tmp_path / "out", counts=COUNTS)


@pytest.mark.parametrize(
    "name", ["ILSVRC2012_val_00000006.JPEG", "ILSVRC2012_val_00000000.JPEG", "x"]
)
def test_val_members_without_a_label_are_refused(archives, tmp_path, name):
    (archives / VAL_TAR).write_bytes(tar_bytes([(name, b"x")]))
    with pytest.raises(InputError, match=f"member '{name}' is no validation image"):
        prepare_imagenet(archives, tmp_path / "out", counts=COUNTS)


def test_wrong_labels_are_refused(archives, tmp_path):
    cases = [
        ({"truth": [1, 2]}, "3 classes and 2 validation labels instead of 3 and 5"),
        ({"truth": [1, 2, 3, 4, 1]}, "labels cannot be read"),
        ({"wnids": ["n00000001", "../evil", "n00000002"]}, "'../evil' is no WordNet id"),
        ({"wnids": ["n00000001", "n00000002"], "truth": [1] * 5}, "2 classes"),
    ]
    for settings, problem in cases:
        write_devkit(archives, **settings)
        with pytest.raises(InputError, match=problem):
            prepare_imagenet(archives, tmp_path / "out", counts=COUNTS)
        assert not (tmp_path / "out").exists()
