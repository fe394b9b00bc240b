import hashlib
import io
import tarfile
from dataclasses import replace

import pytest
import torch

from vgglab.data import CIFAR10, CIFAR100
from vgglab.errors import InputError


def record(label_bytes, value):
    """One image in the official layout; red, green and blue planes differ, and so do rows."""
    planes = [
        bytes((value + channel * 50 + row) % 256 for row in range(32) for _ in range(32))
        for channel in range(3)
    ]
    return bytes(label_bytes) + b"".join(planes)


def write_archive(path, batches):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in batches.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar10(tmp_path):
    batches = {
        f"cifar-10-batches-bin/data_batch_{i}.bin": b"".join(
            record([label], 10 * i) for label in range(10)
        )
        for i in range(1, 6)
    }
    batches["cifar-10-batches-bin/test_batch.bin"] = b"".join(
        record([label], 200) for label in range(10)
    )
    return tmp_path, write_archive(tmp_path / "cifar-10-binary.tar.gz", batches)


def test_cifar10_is_read_in_the_official_order(cifar10):
    root, _ = cifar10
    data = CIFAR10(root=str(root), validation_fraction=0.2)
    train, test = data.load("train"), data.load("test")
    assert train.images.shape == (50, 3, 32, 32)
    assert train.images.dtype == torch.uint8
    assert train.images.is_contiguous()
    assert train.labels.tolist() == list(range(10)) * 5
    assert test.labels.tolist() == list(range(10))
    fourth_batch = train.images[35]
    for channel in range(3):
        for row in (0, 31):
            expected = (40 + 50 * channel + row) % 256
            assert fourth_batch[channel, row].tolist() == [expected] * 32
    assert data.classes[3] == "cat"


def test_validation_comes_off_the_training_set(cifar10):
    data = CIFAR10(root=str(cifar10[0]), validation_fraction=0.2)
    data.setup("fit")
    data.setup("test")
    assert {split: len(images) for split, images in data.sets.items()} == {
        "train": 40,
        "val": 10,
        "test": 10,
    }
    assert not (data.sets["val"].images[:, 0, 0, 0] == 200).any()


def test_cifar100_takes_the_fine_label(tmp_path):
    records = {
        "cifar-100-binary/train.bin": record([7, 99], 1) + record([3, 0], 2),
        "cifar-100-binary/test.bin": record([0, 42], 3),
    }
    write_archive(tmp_path / "cifar-100-binary.tar.gz", records)
    data = CIFAR100(root=str(tmp_path))
    assert data.load("train").labels.tolist() == [99, 0]
    assert data.load("test").labels.tolist() == [42]
    assert data.load("test").images[0, 2, 0, 0] == 103
    assert len(set(data.classes)) == 100
    assert list(data.classes) == sorted(data.classes)


def test_the_archive_is_downloaded_checked_and_used(cifar10, server, tmp_path, monkeypatch):
    root, checksum = cifar10
    bytes_ = (root / "cifar-10-binary.tar.gz").read_bytes()
    server.files["c10"] = bytes_
    source = replace(CIFAR10.source, checksum=checksum, size=len(bytes_))
    monkeypatch.setattr(CIFAR10, "source", source)
    mirrors = [server.url("gone"), server.url("c10")]
    data = CIFAR10(root=str(tmp_path / "fresh"), mirrors=mirrors, validation_fraction=0.2)
    data.prepare_data()
    data.setup("fit")
    assert len(data.sets["train"]) == 40
    assert (tmp_path / "fresh" / "cifar-10-binary.tar.gz").read_bytes() == bytes_


def test_without_the_archive_and_mirrors_one_line_says_where_to_put_it(tmp_path):
    data = CIFAR10(root=str(tmp_path), mirrors=[])
    with pytest.raises(InputError, match=r"cifar-10-binary\.tar\.gz.*by hand"):
        data.prepare_data()
    with pytest.raises(InputError, match=r"cifar-10-binary\.tar\.gz: no such file"):
        data.load("train")


def test_odd_batches_are_refused(tmp_path):
    name = "cifar-100-binary/train.bin"
    path = tmp_path / "cifar-100-binary.tar.gz"
    for data, problem in (
        ({name: record([0, 1], 0)[:-1]}, "no whole records"),
        ({name: b""}, "no whole records"),
        ({name: record([0, 100], 0)}, "label 100 lies outside the 100 classes"),
        ({"other": b""}, f"no file '{name}'"),
    ):
        write_archive(path, data)
        with pytest.raises(InputError, match=problem):
            CIFAR100(root=str(tmp_path)).load("train")
