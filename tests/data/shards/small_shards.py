"""Shards of a few tiny images, in the form that scripts/shard_dataset.py writes."""

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image


def write_shards(
    root: Path, counts: Mapping[str, int], *, classes: int = 4, chunk: int = 5, size: int = 12
) -> Path:
    """`root/<split>` with so many images each, `chunk` of them in a file; returns `root`."""
    for number, (split, count) in enumerate(counts.items()):
        _write_split(root / split, count, classes, chunk, size, np.random.default_rng(number))
    return root


def pixels(count: int, size: int, generator: np.random.Generator) -> np.ndarray:
    return generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def _write_split(
    folder: Path, count: int, classes: int, chunk: int, size: int, generator: np.random.Generator
) -> None:
    from litdata.streaming.cache import Cache

    folder.mkdir(parents=True)
    images = pixels(count, size, generator)
    labels = generator.integers(0, classes, count).astype(np.int16)
    stored = generator.permutation(count)  # position -> index
    cache = Cache(str(folder), chunk_size=chunk)
    for position, index in enumerate(stored.tolist()):
        png = BytesIO()
        Image.fromarray(images[index]).save(png, "PNG")
        label = int(labels[index])
        cache[position] = {"index": index, "label": label, "data": png.getvalue()}
    cache.done()
    cache.merge(1)
    np.save(folder / "labels.npy", labels)
    np.save(folder / "order.npy", np.argsort(stored).astype(np.int32))
    names = [f"class {label}/{index:03d}.png\n" for index, label in enumerate(labels)]
    (folder / "names.txt").write_text("".join(names))
    description = {
        "version": 1,
        "classes": [f"class {label}" for label in range(classes)],
        "count": count,
        "shortest_side": None,
    }
    (folder / "vgglab.json").write_text(json.dumps(description))
