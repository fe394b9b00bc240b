"""scripts/shard_dataset.py as a user runs it."""

import json
from pathlib import Path

from tests.conftest import Script


def test_a_source_becomes_shards(process: Script, tmp_path: Path) -> None:
    small = ("data=synthetic", "data.train_size=40", "data.val_size=8", "data.test_size=8")
    done = process("shard_dataset", *small, "output=shards", "data.num_workers=2")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    train, _, test, last = done.stdout.splitlines()
    assert train.startswith("train: 40 images in 3 chunks, 0.1 MB, 10")
    assert test.startswith("test: 8 images in 1 chunk, ")
    assert last == "shards: use it with data=imagenet_stream data.uri=shards"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shards"]
    assert sorted(p.name for p in (tmp_path / "shards").iterdir()) == ["test", "train", "val"]
    told = json.loads((tmp_path / "shards/train/vgglab.json").read_text())
    assert [told["count"], told["shortest_side"], told["quality"]] == [40, 256, 90]
