"""Files that are not what they should be: each function makes one, or makes what makes one."""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

GOOD = "good.ckpt"  # of a finished run; lies in every row's folder
ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz")

Maker = Callable[[Path], None]


class RunsCode:
    """Its pickle makes a file where it is loaded without care."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch escaped",)


def folder(path: Path) -> None:
    path.mkdir()


def link(target: str) -> Maker:
    return lambda path: path.symlink_to(target)


def pipe(path: Path) -> None:
    """Who opens it to read waits for ever."""
    os.mkfifo(path)


# Images


def image(
    kind: str = "JPEG", size: tuple[int, int] = (40, 40), *, cut: float = 1, **how: Any
) -> bytes:
    """A valid image file, or with `cut` below 1 the beginning of one."""
    stream = io.BytesIO()
    Image.effect_noise(size, 64).convert("RGB").save(stream, kind, **how)
    data = stream.getvalue()
    return data[: int(cut * len(data))]


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has a few pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def jpeg_header(width: int, height: int) -> bytes:
    """A JPEG whose frame claims another size than its pixels have."""
    data = bytearray(image("JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def gif_header(width: int, height: int) -> bytes:
    data = bytearray(image("GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def tiff_header(width: int, height: int) -> bytes:
    entries = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1)]
    entries += [(273, 4, 200), (277, 3, 1), (278, 4, height), (279, 4, 100)]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    head = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(entries)) + table
    return head + bytes(400)


def deep_tiff() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ones((40, 40), np.int32)).save(stream, "TIFF")
    return stream.getvalue()


def animation(cut: float) -> bytes:
    stream = io.BytesIO()
    frames = [Image.effect_noise((40, 40), 64) for _ in range(3)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    data = stream.getvalue()
    return data[: int(cut * len(data))]


def tree(**classes: dict[str, bytes | Maker] | None) -> Maker:
    """A folder of `split__class` folders of files; None is a folder without any."""

    def make(path: Path) -> None:
        path.mkdir()
        for name, files in classes.items():
            place = path.joinpath(*name.split("__"))
            place.mkdir(parents=True)
            for file, content in (files or {}).items():
                if callable(content):
                    content(place / file)
                else:
                    (place / file).write_bytes(content)

    return make


def classes(
    *counts: int, split: str = "train", **extra: bytes | Maker
) -> dict[str, dict[str, bytes | Maker]]:
    """Class folders `a`, `b`, ... with so many small images each; `extra` goes into `a`, an
    underscore in its names for a dot."""
    found: dict[str, dict[str, bytes | Maker]] = {
        f"{split}__{chr(97 + label)}": {f"{i}.png": image("PNG", (16, 16)) for i in range(count)}
        for label, count in enumerate(counts)
    }
    found[f"{split}__a"] |= {name.replace("_", "."): content for name, content in extra.items()}
    return found


# Checkpoints


def altered(change: Callable[[dict[str, Any]], Any]) -> Maker:
    """The good checkpoint after a change, in place, or replaced by what the change returns."""

    def make(path: Path) -> None:
        checkpoint = torch.load(path.parent / GOOD, weights_only=True)
        changed = change(checkpoint)
        torch.save(checkpoint if changed is None else changed, path)

    return make


def card(**changes: Any) -> Maker:
    """The good checkpoint with another card; None takes an entry away."""

    def change(checkpoint: dict[str, Any]) -> None:
        for name, value in changes.items():
            if value is None:
                del checkpoint["vgglab"][name]
            else:
                checkpoint["vgglab"][name] = value

    return altered(change)


def model_section(**changes: Any) -> Maker:
    def change(checkpoint: dict[str, Any]) -> None:
        checkpoint["vgglab"]["config"]["model"].update(changes)

    return altered(change)


def preprocessing(**changes: Any) -> Maker:
    def change(checkpoint: dict[str, Any]) -> None:
        checkpoint["vgglab"]["preprocessing"].update(changes)

    return altered(change)


def state(change: Callable[[dict[str, Any]], Any]) -> Maker:
    """The good checkpoint with other weights."""
    return altered(lambda checkpoint: change(checkpoint["state_dict"]) and None)


def filled(key: str, *, value: float = 0, shape: tuple[int, ...] | None = None) -> Maker:
    """The good checkpoint with one weight of one value."""

    def change(weights: dict[str, Any]) -> None:
        weight = weights[f"network.{key}"]
        weights[f"network.{key}"] = torch.full(shape or weight.shape, value)

    return state(change)


def network_weights(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A plain state dict."""
    return {k.removeprefix("network."): v for k, v in checkpoint["state_dict"].items()}


def cut(share: float) -> Maker:
    def make(path: Path) -> None:
        data = (path.parent / GOOD).read_bytes()
        path.write_bytes(data[: int(share * len(data))])

    return make


def flipped_bit(path: Path) -> None:
    """In the middle, where the weights are."""
    data = bytearray((path.parent / GOOD).read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")


def pickled(value: Any, *, legacy: bool = False) -> Maker:
    def make(path: Path) -> None:
        torch.save(value, path, _use_new_zipfile_serialization=not legacy)

    return make


def safetensors(
    *, length: int | None = None, data: bytes = bytes(64), **tensors: tuple[int, int, int]
) -> bytes:
    """A file whose parts need not fit each other. Of a tensor: its length, and where its bytes
    begin and end."""
    entries = {
        name: {"dtype": "F32", "shape": [count], "data_offsets": [begin, end]}
        for name, (count, begin, end) in tensors.items()
    }
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


# Features


def features(count: int = 12, **changes: Any) -> Maker:
    """An .npz as scripts/extract_features.py writes it, of two classes; None leaves one out."""
    arrays: dict[str, Any] = {
        "features": np.random.default_rng(0).random((count, 4), np.float32),
        "labels": np.arange(count) % 2,
        "paths": np.array([f"{i}.png" for i in range(count)]),
        "classes": np.array(["cat", "dog"]),
        **changes,
    }

    def make(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **{k: v for k, v in arrays.items() if v is not None})

    return make


# Archives


def member(
    name: str, content: bytes = b"", *, declared: int | None = None, **fields: Any
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content) if declared is None else declared
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def meta(count: int = 3, name: str = "n{:08d}") -> bytes:
    """The devkit's meta.mat, of so many classes."""
    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("num_children", "f8")]
    synsets = np.array([(i, name.format(i), 0) for i in range(1, count + 1)], dtype=kinds)
    stream = io.BytesIO()
    savemat(stream, {"synsets": synsets})
    return stream.getvalue()


def devkit(labels: str = "1 2 3 3", mat: bytes | None = None, *, without: str = "?") -> bytes:
    """A devkit of three classes and four validation images."""
    base = "ILSVRC2012_devkit_t12/data"
    files = {
        f"{base}/meta.mat": meta() if mat is None else mat,
        f"{base}/ILSVRC2012_validation_ground_truth.txt": labels.encode(),
    }
    return tar(*(member(n, c) for n, c in files.items() if not n.endswith(without)))


def wrong_crc(data: bytes) -> bytes:
    packed = bytearray(gzip.compress(data))
    packed[-8] ^= 1
    return bytes(packed)


def code_pickle() -> bytes:
    return pickle.dumps(RunsCode())
