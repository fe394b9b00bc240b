"""Streams from a folder and from a real S3 server, which one of them kills in the middle."""

import json
import pickle
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.shards.s3_server import KEYS, S3Server
from tests.data.shards.small_shards import pixels, write_shards

from vgglab.data import ImageStream
from vgglab.data.batches import Batch
from vgglab.data.shards.reading import StreamedImages
from vgglab.errors import InputError

TRAIN, VAL, SIDE = 53, 11, 12


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"), {"train": TRAIN, "val": VAL}, size=SIDE)


def stream(uri: object, **settings: Any) -> ImageStream:
    data = ImageStream(
        uri=str(uri),
        **{"image_size": 8, "batch_size": 8, "interleave": 3, "seed": 3, **settings},
    )
    data.setup("fit")
    data.setup("test")
    return data


def batches(data: ImageStream, epoch: int = 0) -> list[Batch]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    found = list(loader)
    end(loader)
    return found


def end(loader: Any) -> None:
    """End its workers now: the garbage collector would wait 5 s for each."""
    if loader._iterator is not None:
        loader._iterator._shutdown_workers()


def equal(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images)
        and torch.equal(a.indices, b.indices)
        and torch.equal(a.labels, b.labels)
        for a, b in zip(first, second, strict=True)
    )


def test_images_labels_and_names_are_those_of_the_source(shards: Path) -> None:
    train = stream(shards).sets["train"]
    assert isinstance(train, StreamedImages)
    stored = pixels(TRAIN, SIDE, np.random.default_rng(0))
    assert train.labels.tolist() == np.load(shards / "train" / "labels.npy").tolist()
    for index in (0, 17, TRAIN - 1):
        assert torch.equal(train.image(index), torch.from_numpy(stored[index]).permute(2, 0, 1))
        label = int(train.labels[index])
        assert train.name(index) == f"class {label}/{index:03d}.png in {shards}/train"
    part = pickle.loads(pickle.dumps(train)).subset(torch.tensor([40, 2]))
    assert torch.equal(part.image(1), train.image(2))
    assert part.labels.tolist() == train.labels[[40, 2]].tolist()
    assert part.name(0) == train.name(40)


def test_val_is_also_the_test_set_in_the_order_of_the_chunks(shards: Path) -> None:
    data = stream(shards)
    val = data.sets["val"]
    assert isinstance(val, StreamedImages)
    assert val.positions.tolist() == list(range(VAL))
    assert sorted(val.indices.tolist()) == list(range(VAL))
    seen = [i for batch in data.val_dataloader() for i in batch.indices.tolist()]
    assert seen == list(range(VAL))
    assert torch.equal(data.sets["test"].labels, val.labels)


def test_a_split_off_train_shares_no_image_with_it(shards: Path) -> None:
    data = stream(shards, validation="split", validation_fraction=0.2)
    train, val = data.sets["train"], data.sets["val"]
    names = [{s.name(i) for i in range(len(s))} for s in (train, val)]
    assert len(names[0] | names[1]) == TRAIN
    assert len(names[1]) == 11
    assert len({i for batch in batches(data) for i in batch.indices.tolist()}) == 40


def test_workers_do_not_change_the_batches(shards: Path) -> None:
    alone = batches(stream(shards))
    assert equal(alone, batches(stream(shards, num_workers=2)))
    assert len({i for batch in alone for i in batch.indices.tolist()}) == 48


@pytest.mark.parametrize("workers", [0, 2])
def test_it_goes_on_where_it_stopped(shards: Path, workers: int) -> None:
    data = stream(shards, num_workers=workers)
    whole = batches(data, epoch=1)
    loader = data.train_dataloader()
    loader.sampler.set_epoch(1)
    run = iter(loader)
    assert equal(list(islice(run, 2)), whole[:2])
    state = loader.state_dict()
    end(loader)
    resumed = data.train_dataloader()
    resumed.load_state_dict(json.loads(json.dumps(state)))
    assert equal(list(resumed), whole[2:])
    assert resumed.state_dict()["batches"] == len(whole) == len(resumed)
    end(resumed)


def test_a_broken_image_is_named_or_skipped(shards: Path, tmp_path: Path) -> None:
    root = shutil.copytree(shards, tmp_path / "broken")
    chunk = root / "train" / "chunk-0-1.bin"
    data = chunk.read_bytes()
    at = data.index(b"\x89PNG")
    chunk.write_bytes(data[:at] + b"nothing." + data[at + 8 :])
    with pytest.raises(InputError, match=rf"class \d/\d+.png in {root}/train: not an image"):
        batches(stream(root))
    skipped = [line for batch in batches(stream(root, on_error="skip")) for line in batch.skipped]
    assert len(skipped) == 1
    assert f"in {root}/train: not an image" in skipped[0]


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: shutil.rmtree(f), "no shards in it.*scripts/shard_dataset.py"),
        (lambda f: (f / "vgglab.json").unlink(), "no shards in it.*train/vgglab.json: no such"),
        (lambda f: _cut(f / "vgglab.json"), "train/vgglab.json: damaged"),
        (lambda f: _change(f / "vgglab.json", version=2), "vgglab.json: damaged, .*version"),
        (lambda f: _change(f / "vgglab.json", classes=7), "vgglab.json: damaged, .*classes"),
        (lambda f: _change(f / "vgglab.json", count=9), "53 images, but vgglab.json says 9"),
        (lambda f: _change(f / "vgglab.json", classes=["a"]), "label 3 lies outside the 1 classes"),
        (lambda f: (f / "index.json").unlink(), "train/index.json: no such file"),
        (lambda f: (f / "index.json").write_text("{}"), "train/index.json: damaged"),
        (lambda f: _cut(f / "labels.npy"), "train/labels.npy: damaged"),
        (lambda f: np.save(f / "labels.npy", np.zeros(TRAIN)), "labels.npy: damaged, .*float64"),
        (lambda f: np.save(f / "order.npy", np.zeros(TRAIN, int)), "order.npy: damaged, .*twice"),
        (lambda f: (f / "names.txt").write_text("a\n"), "names.txt: damaged"),
        (lambda f: _cut(f / "chunk-0-2.bin"), "chunk-0-2.bin: .* bytes, but its index says"),
        (lambda f: (f / "chunk-0-2.bin").unlink(), "chunk-0-2.bin: No such file"),
    ],
)
def test_damage_is_named_in_one_line(shards: Path, tmp_path: Path, damage: Any, says: str) -> None:
    root = shutil.copytree(shards, tmp_path / "damaged")
    damage(root / "train")
    with pytest.raises(InputError, match=says) as caught:
        batches(stream(root))
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes_of_the_cache_are_read_and_too_small_ones_refused(shards: Path) -> None:
    assert stream(shards, max_cache_size="1.5TB").cache_limit == 1_500_000_000_000
    with pytest.raises(InputError, match=r"data.max_cache_size=lots: a size such as 200GB"):
        stream(shards, max_cache_size="lots")


@pytest.fixture(scope="module")
def server(shards: Path) -> Iterator[S3Server]:
    server = S3Server(shards)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def remote(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    return {"uri": "s3://bucket", "endpoint": server.endpoint, "cache_dir": str(tmp_path / "c")}


def test_s3_gives_what_the_folder_gives(
    shards: Path, remote: dict[str, Any], tmp_path: Path
) -> None:
    local = stream(shards)
    data = stream(**remote)
    assert equal(batches(data), batches(local))
    assert torch.equal(data.sets["val"].image(4), local.sets["val"].image(4))
    assert data.sets["train"].name(4).endswith("in s3://bucket/train")
    kept = {file.name for file in (tmp_path / "c").glob("vgglab/*/train/*.bin")}
    assert len(kept) in (10, 11)  # what an epoch drops may be all of a chunk
    with pytest.raises(InputError, match=r"no shards in it.*s3://another/train/vgglab.json: no su"):
        stream(**{**remote, "uri": "s3://another"})
    with pytest.raises(InputError, match=r"max_cache_size: 0.01 MB have no room.*interleave=3"):
        stream(**remote, max_cache_size="0.01MB").train_dataloader()


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back_loses_no_image(
    server: S3Server, shards: Path, remote: dict[str, Any]
) -> None:
    data = stream(**remote, num_workers=2, interleave=1, retry_seconds=120)
    loader = data.train_dataloader()
    run = iter(loader)
    seen = [next(run)]
    server.kill()
    for chunk in Path(remote["cache_dir"]).glob("vgglab/*/*/*.bin"):
        chunk.unlink()  # or all is there already
    server.start()
    seen += run
    end(loader)
    assert equal(seen, batches(stream(shards, interleave=1)))


def test_what_the_shards_lack_is_told(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = shutil.copytree(shards, tmp_path / "copy")
    file = root / "train/vgglab.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "skipped": ["a.jpg: empty file"]}))
    data = stream(root)
    assert data.sets["train"].skipped == ["a.jpg: empty file"]
    assert "train: 1 image could not be read when it was written" in caplog.text


@pytest.mark.parametrize("uri", ["s3:/bucket/folder", "s3://", "S3://bucket", "http://host/folder"])
def test_a_uri_of_another_kind_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match="is expected"):
        stream(uri)


def test_an_endpoint_is_an_address() -> None:
    with pytest.raises(InputError, match=r"data.endpoint=127.0.0.1:9: http:// or https://"):
        stream("s3://bucket/folder", endpoint="127.0.0.1:9")
