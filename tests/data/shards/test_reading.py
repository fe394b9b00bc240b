"""What is a stranger's, or damaged, in shards: refused in a line, and never run."""

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.shards.small_shards import write_shards

from vgglab.data.shards.reading import Shards, StreamedImages, read_shards
from vgglab.data.shards.storage import Storage
from vgglab.errors import BrokenImageError, InputError
from vgglab.evaluation.batching import shape_batches

COUNT = 13


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"), {"train": COUNT}) / "train"


@pytest.fixture
def split(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "train")


def opened(split: Path) -> Shards:
    storage = Storage(str(split))
    return read_shards(storage, storage.read("vgglab.json"), split.parent / "cache", None)


def change(file: Path, edit: Callable[[Any], object]) -> None:
    content = json.loads(file.read_bytes())
    edit(content)
    file.write_text(json.dumps(content))


class Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def test_an_index_that_asks_to_unpickle_is_refused(split: Path, tmp_path: Path) -> None:
    chunk, trace = split / "chunk-0-0.bin", tmp_path / "trace"
    values = [struct.pack("<q", 0), struct.pack("<q", 0), pickle.dumps(Payload(trace))]
    item = struct.pack("<3I", *map(len, values)) + b"".join(values)
    begins = [4 * 7 + i * len(item) for i in range(6)]
    chunk.write_bytes(struct.pack("<7I", 5, *begins) + 5 * item)

    def edit(index: Any) -> None:
        index["config"]["data_format"] = ["int", "int", "pickle"]
        index["chunks"][0]["chunk_bytes"] = chunk.stat().st_size

    change(split / "index.json", edit)
    with pytest.raises(InputError, match=r"index\.json: damaged, or not of scripts/shard_dataset"):
        StreamedImages(opened(split)).read(0)
    assert not trace.exists()


@pytest.mark.parametrize(
    "edit",
    [
        lambda index: index["config"].update(data_spec='[1, {"type": "builtins.dict"}]'),
        lambda index: index["config"].update(data_spec=5 * 10**4 * "["),
        lambda index: index["config"].update(item_loader="TokensLoader"),
        lambda index: index["config"].update(compression="zstd"),
        lambda index: index["config"].update(format="mds"),
        lambda index: index["config"].update({"a\n\x1b": 1}),
        lambda index: index["chunks"][0].update(filename=".."),
        lambda index: index["chunks"][0].update(filename="../chunk-0-0.bin"),
        lambda index: index["chunks"][0].update(filename="chunk-0-0.bin\n"),
        lambda index: index["chunks"][0].update(filename="chunk-0-1.bin"),
        lambda index: index["chunks"][0].update(chunk_bytes=0),
        lambda index: index["chunks"][0].update(chunk_bytes=10**18),
        lambda index: index["chunks"][0].update(chunk_size=-5),
        lambda index: index["chunks"][0].update(chunk_size=10**12),
        lambda index: index["chunks"].clear(),
        lambda index: index.update(chunks={}),
    ],
)
def test_an_index_of_another_kind_is_refused(split: Path, edit: Callable[[Any], object]) -> None:
    change(split / "index.json", edit)
    with pytest.raises(InputError, match=r"^\S+/index.json: damaged, or not of [^\n]*$"):
        opened(split)


def test_a_chunk_of_absurd_size_is_not_believed_also_where_the_description_agrees(
    split: Path,
) -> None:
    change(
        split / "index.json",
        lambda i: i["chunks"][0].update(chunk_size=2**27, chunk_bytes=2**32 - 1),
    )
    change(split / "vgglab.json", lambda d: d.update(count=2**27 + COUNT - 5))
    with pytest.raises(InputError, match=r"labels\.npy: damaged"):
        opened(split)
    header = (
        f"{{'descr': '<i4', 'fortran_order': False, 'shape': ({2**27 + COUNT - 5},), }}\n".encode()
    )
    lying = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(100)
    (split / "labels.npy").write_bytes(lying)  # numpy would make room for 2**27 of them
    with pytest.raises(InputError, match=r"labels\.npy: damaged.*100 bytes of 536,"):
        opened(split)


def test_a_file_that_would_take_the_memory_is_refused(split: Path) -> None:
    with (split / "index.json").open("r+b") as file:
        file.truncate(1 << 40)  # a hole: it takes no room on the disk
    with pytest.raises(InputError, match=r"index\.json: larger than the 67,108,864 bytes"):
        opened(split)


def test_the_description_names_no_files(split: Path) -> None:
    change(split / "vgglab.json", lambda described: described.update(names="/etc/passwd"))
    assert opened(split).name(0).startswith("class ")


def test_a_name_cannot_write_on_the_terminal(split: Path) -> None:
    names = (split / "names.txt").read_bytes().splitlines()
    (split / "names.txt").write_bytes(b"\n".join([b"\x1b[2J\r\xff", *names[1:], b""]))
    shards = opened(split)
    assert shards.name(0) == rf"\x1b[2J\r\udcff in {split}"
    assert shards.name(COUNT - 1) == f"{names[-1].decode()} in {split}"


def skipped_by_evaluation(split: Path) -> dict[int, str]:
    skipped: dict[int, str] = {}
    images = StreamedImages(opened(split))
    for _ in shape_batches(
        images, [8], channels=3, batch_size=4, description="test", skipped=skipped
    ):
        pass
    return skipped


def test_one_damaged_image_is_skipped_by_its_name(split: Path) -> None:
    order = np.load(split / "order.npy")
    chunk = bytearray((split / "chunk-0-1.bin").read_bytes())
    begin = struct.unpack_from("<I", chunk, 4 + 4 * 2)[0]  # of the third image
    struct.pack_into("<I", chunk, begin, 2**31)  # the length of its index
    (split / "chunk-0-1.bin").write_bytes(chunk)
    image = order.tolist().index(5 + 2)
    shards = opened(split)
    with pytest.raises(BrokenImageError, match=rf"^class \d/{image:03d}.png in {split}: damaged"):
        shards.read(image)
    assert list(skipped_by_evaluation(split)) == [image]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda chunk: chunk.unlink(), "No such file"),
        (lambda chunk: chunk.write_bytes(chunk.read_bytes()[:-1]), "but its index says"),
        (lambda chunk: _fill(chunk, 0, 4), "damaged chunk"),  # how many
        (lambda chunk: _fill(chunk, 8, 12), "damaged chunk"),  # where the second begins
        (lambda chunk: _fill(chunk, 4, 28), "damaged chunk"),
        (lambda chunk: shutil.copy(chunk.with_name("chunk-0-0.bin"), chunk), "chunk-0-1.bin: "),
    ],
)
def test_a_chunk_that_is_gone_or_damaged_ends_the_run_also_where_images_are_skipped(
    split: Path, damage: Callable[[Path], object], says: str
) -> None:
    damage(split / "chunk-0-1.bin")
    with pytest.raises(InputError, match=says) as caught:
        skipped_by_evaluation(split)
    assert str(split / "chunk-0-1.bin") in str(caught.value)


def _fill(chunk: Path, first: int, last: int) -> None:
    content = bytearray(chunk.read_bytes())
    content[first:last] = b"\xff" * (last - first)
    chunk.write_bytes(content)


def test_labels_of_another_set_are_noticed(split: Path) -> None:
    labels = np.load(split / "labels.npy")
    np.save(split / "labels.npy", (labels + 1) % 4)
    with pytest.raises(InputError, match=r"not of the same set as order\.npy and labels\.npy"):
        opened(split).read(0)
