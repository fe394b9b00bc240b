"""Files of features, `.npz` or `.safetensors`: written whole or not at all, and never held in
memory as a whole."""

import json
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from vgglab.errors import InputError
from vgglab.files import replacing

Values = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

SUFFIXES = (".npz", ".safetensors")
_BLOCK = 1 << 24  # bytes
_ROWS = 256  # moved at a time
# What the readers raise on files that are torn or of another kind.
_DAMAGE = (OSError, ValueError, KeyError, struct.error, zipfile.BadZipFile, SafetensorError)


@dataclass(frozen=True)
class Features:
    """One descriptor an image."""

    values: Values
    """(N, D), mapped from the file: what is not indexed is not read."""
    labels: Labels | None
    """(N,) indices in `classes`. None: the images had no class folders."""
    paths: list[str]
    """(N,) image files, relative to the folder they were read from."""
    classes: list[str]


@contextmanager
def create_features(
    output: Path,
    width: int,
    paths: list[str],
    labels: Labels | None,
    classes: list[str],
    left_out: Collection[int] = (),
) -> Iterator[Values]:
    """(N, width) zeros to fill; when the block ends without an error they are `output`.

    They lie in a nameless file in the output's folder, which goes with the process however it
    ends. Until then `output` is what it was.

    Args:
        output: `.npz` or `.safetensors`.
        width: numbers an image.
        paths: N files.
        labels: (N,), or None.
        classes: names in label order; empty without labels.
        left_out: indices of images that get no row; the block may add to it.

    Raises:
        InputError: another suffix, no such folder, not writable, or the disk is full. The room is
            taken at the start, so that most of it does not come up after hours of work.
    """
    if output.suffix not in SUFFIXES:
        raise InputError(f"output={output} must end in {' or '.join(SUFFIXES)}")
    if not output.parent.is_dir() or output.is_dir():
        problem = "is a folder" if output.is_dir() else "lies in no folder that exists"
        raise InputError(f"output={output} {problem}")
    with _explained(output):
        scratch = tempfile.TemporaryFile(dir=output.parent)  # noqa: SIM115 - closed below
    with scratch:
        with _explained(output):
            values = _zeros(scratch, (len(paths), width), output.parent)
        yield values
        with _explained(output), replacing(output) as temporary:
            features = _without(left_out, Features(values, labels, paths, classes))
            _write(temporary, output.suffix, features)


def _without(left_out: Collection[int], features: Features) -> Features:
    """The others' rows move up, in place."""
    if not left_out:
        return features
    values, labels = features.values, features.labels
    kept = np.setdiff1d(np.arange(len(values)), list(left_out))
    for start in range(0, len(kept), _ROWS):
        rows = kept[start : start + _ROWS]
        values[start : start + len(rows)] = values[rows]
    return Features(
        values[: len(kept)],
        None if labels is None else labels[kept],
        [features.paths[index] for index in kept],
        features.classes,
    )


@contextmanager
def _explained(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"output={output}: {error.strerror or error}") from error


def _zeros(file: IO[bytes], shape: tuple[int, int], folder: Path) -> Values:
    """A mapped array in an empty file."""
    size = 4 * shape[0] * shape[1]
    free = shutil.disk_usage(folder).free
    if free < 2 * size:  # this file, and at the end the output beside it
        need, have = 2 * size / 1e6, free / 1e6
        raise OSError(f"{need:,.1f} MB are needed in {folder} for a while, {have:,.1f} are free")
    # Written, not only made so long: a disk that fills up under a mapping kills the process.
    zeros = bytes(min(size, _BLOCK))
    for start in range(0, size, _BLOCK):
        file.write(zeros[: size - start])
    file.flush()
    return np.memmap(file, np.float32, "r+", shape=shape)


def _write(path: Path, suffix: str, features: Features) -> None:
    """Both libraries write an array without a copy of it (safetensors from 0.8 on)."""
    arrays: dict[str, Any] = {"features": features.values}
    if features.labels is not None:
        arrays["labels"] = features.labels
    if suffix == ".npz":
        arrays["paths"] = np.array(features.paths)
        arrays["classes"] = np.array(features.classes, np.str_)
        with path.open("wb") as file:  # given a name, numpy would add a suffix
            np.savez(file, **arrays)
        return
    texts = {"paths": json.dumps(features.paths), "classes": json.dumps(features.classes)}
    path.touch()
    mode = path.stat().st_mode
    safetensors.numpy.save_file(arrays, path, metadata=texts)
    path.chmod(mode)  # safetensors leaves a file that its owner alone can read


def read_features(path: Path) -> Features:
    """Open what `create_features` wrote.

    Raises:
        InputError: no such file, a torn one or one of another kind.
    """
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors}
    if path.suffix not in readers:
        raise InputError(f"features={path} must end in {' or '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"features={path}: no such file")
    try:
        features = readers[path.suffix](path)
    except _DAMAGE as error:
        raise InputError(f"features={path}: torn, or not a file of features ({error})") from error
    counts = {len(features.paths), len(features.values)}
    if features.labels is not None:
        counts.add(len(features.labels))
    if features.values.ndim != 2 or not features.values.size or len(counts) > 1:
        raise InputError(f"features={path}: features, labels and paths do not belong together")
    if features.labels is not None and not _are_indices(features.labels, len(features.classes)):
        raise InputError(
            f"features={path}: its labels are not indices of its {len(features.classes)} classes"
        )
    return features


def _are_indices(labels: npt.NDArray[Any], count: int) -> bool:
    in_range = labels.dtype.kind in "iu" and labels.min() >= 0 and labels.max() < count
    return labels.ndim == 1 and bool(in_range)


def _read_npz(path: Path) -> Features:
    values = _mapped(path, "features.npy")
    with np.load(path, allow_pickle=False) as archive:
        labels = archive.get("labels")
        return Features(values, labels, archive["paths"].tolist(), archive["classes"].tolist())


def _mapped(path: Path, name: str) -> Values:
    """An array of an .npz without reading it, which numpy itself does for .npy alone."""
    with zipfile.ZipFile(path) as archive:
        # A compressed one could inflate beyond all bounds.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("arrays must be stored uncompressed, as by np.savez")
        entry = archive.getinfo(name)
    with path.open("rb") as file:
        # The local header ends with the lengths of two fields that follow it (PKWARE's APPNOTE,
        # section 4.3.7); the array begins behind them.
        file.seek(entry.header_offset + 26)
        lengths = struct.unpack("<HH", file.read(4))
        file.seek(sum(lengths), 1)
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("features must be in numpy's format 1.0, as by np.savez")
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
        if by_columns or dtype != np.float32:
            raise ValueError("features must be float32 in rows")
        return np.memmap(path, np.float32, "r", offset=file.tell(), shape=shape)


def _read_safetensors(path: Path) -> Features:
    # As torch tensors, because those are mapped; numpy arrays would be copies.
    with safe_open(path, "pt") as file:
        texts = file.metadata() or {}
        labels = file.get_tensor("labels").numpy() if "labels" in file.keys() else None  # noqa: SIM118
        values = file.get_tensor("features").numpy()
    return Features(values, labels, json.loads(texts["paths"]), json.loads(texts["classes"]))
