"""ImageNet's folders from the official ILSVRC2012 archives: resumable, checked by count."""

import io
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from scipy.io import loadmat  # type: ignore[import-untyped]

from vgglab.data.sources.archives import check_member, extract, open_tar, read_member
from vgglab.errors import InputError
from vgglab.files import digest
from vgglab.progress import Advance, progress

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
DEVKIT_TAR = "ILSVRC2012_devkit_t12.tar.gz"
_DEVKIT_DATA = "ILSVRC2012_devkit_t12/data"
# Of archives when unpacked, and their members.
_MAX_TRAIN_BYTES = 1 << 38  # 138 GB
_MAX_CLASS_BYTES = 16 << 30  # 0.15 GB
_MAX_CLASS_IMAGES = 10_000  # at most 1,300
_MAX_VAL_BYTES = 16 << 30  # 6.7 GB
_MAX_DEVKIT_BYTES = 1 << 28
_MAX_DEVKIT_FILES = 1_000


@dataclass(frozen=True)
class Counts:
    """What must come out."""

    classes: int
    train: int
    val: int
    devkit: str | None = None
    """Its MD5. The official one is known, so that no stranger's .mat file is parsed."""


# The checksum as in torchvision.datasets.ImageNet.
ILSVRC2012 = Counts(1000, 1_281_167, 50_000, devkit="fa75699e90414af021442c21a62c3abf")


def prepare_imagenet(archives: Path, root: Path, *, counts: Counts = ILSVRC2012) -> None:
    """Build `root/train/<wnid>` and `root/val/<wnid>`.

    A split grows in `root/<split>.part` and gets its name when its count is right, so a folder
    `train` or `val` is complete. Run it again after an interruption: it continues.

    Args:
        archives: the folder of the three archives of the official site.
        root: the folder to fill; about 150 GB for all of ImageNet.
        counts: expected; others are for tests.

    Raises:
        InputError: an archive is missing or broken, holds a member that would leave its folder,
            or the counts are wrong.
    """
    paths = [archives / name for name in (TRAIN_TAR, VAL_TAR, DEVKIT_TAR)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise InputError(
            f"archives={archives}: {', '.join(missing)} not there; "
            "image-net.org gives them to registered researchers"
        )
    train_tar, val_tar, devkit_tar = paths
    wnids, val_wnids = _read_devkit(devkit_tar, counts)
    _build(root / "val", counts.val, lambda part, on: _unpack_val(val_tar, part, val_wnids, on))
    _build(root / "train", counts.train, lambda part, on: _unpack_train(train_tar, part, wnids, on))


def _build(folder: Path, images: int, unpack: Callable[[Path, Advance], None]) -> None:
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        made = [path for path in (part, *part.parents) if not path.exists()]
        try:
            part.mkdir(parents=True, exist_ok=True)
            with progress(f"{folder.name} images", images, unit="images") as advance:
                unpack(part, advance)
            _check_count(part, images, "fetch the archive again, it is not whole")
        except InputError:
            _remove_empty(*part.iterdir(), *made)
            raise
        except OSError as error:
            raise InputError(f"cannot write {part}: {error.strerror or error}") from error
        os.replace(part, folder)
    _check_count(folder, images, "remove the folder and start again")


def _remove_empty(*folders: Path) -> None:
    """An archive that is refused at its first image leaves nothing."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _check_count(folder: Path, expected: int, advice: str) -> None:
    found = sum(_count(child) for child in folder.iterdir() if child.is_dir())
    if found != expected:
        raise InputError(f"{folder} holds {found:,} images instead of {expected:,}: {advice}")


def _count(folder: Path) -> int:
    return sum(not name.startswith(".") for name in os.listdir(folder))


def _read_devkit(devkit: Path, counts: Counts) -> tuple[set[str], list[str]]:
    """The classes' wnids, and the wnid of each validation image in the order of its number."""
    if counts.devkit is not None and digest(devkit, "md5") != counts.devkit:
        raise InputError(f"{devkit} is not the official file: its MD5 is not {counts.devkit}")
    with open_tar(devkit, max_bytes=_MAX_DEVKIT_BYTES, max_members=_MAX_DEVKIT_FILES) as tar:
        meta = read_member(tar, f"{_DEVKIT_DATA}/meta.mat", str(devkit))
        truth_file = f"{_DEVKIT_DATA}/ILSVRC2012_validation_ground_truth.txt"
        truth = read_member(tar, truth_file, str(devkit))
    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        wnid_of = {
            int(synset["ILSVRC2012_ID"]): str(synset["WNID"])
            for synset in synsets
            if synset["num_children"] == 0  # the others are inner nodes of WordNet
        }
        val_wnids = [wnid_of[int(line)] for line in truth.split()]
    except Exception as error:  # scipy's reader fed with noise raises anything
        raise InputError(f"{devkit}: its labels cannot be read ({error!r})") from error
    wnids = set(wnid_of.values())
    if len(wnids) != counts.classes or len(val_wnids) != counts.val:
        raise InputError(
            f"{devkit}: {len(wnids):,} classes and {len(val_wnids):,} validation labels instead of "
            f"{counts.classes:,} and {counts.val:,}"
        )
    bad = [wnid for wnid in wnids if not re.fullmatch(r"n\d{8}", wnid)]
    if bad:
        raise InputError(f"{devkit}: {bad[0]!r} is no WordNet id")
    return wnids, val_wnids


def _unpack_val(archive: Path, part: Path, wnids: Sequence[str], advance: Advance) -> None:
    with open_tar(archive, max_bytes=_MAX_VAL_BYTES, max_members=2 * len(wnids)) as tar:
        for member in tar:
            check_member(member, str(archive))
            name = PurePosixPath(member.name).name
            number = re.fullmatch(r"ILSVRC2012_val_(\d{8})\.JPEG", name)
            in_range = number is not None and 1 <= int(number[1]) <= len(wnids)
            if number is None or not in_range or not member.isfile():
                raise InputError(f"{archive}: member {member.name!r} is no validation image")
            target = part / wnids[int(number[1]) - 1] / name
            if not target.exists():
                _copy_member(tar, member, target)
            advance(1)


def _copy_member(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """A file whose name appears when it is complete."""
    target.parent.mkdir(exist_ok=True)
    unfinished = target.with_name(f".{target.name}")
    stream = tar.extractfile(member)
    assert stream is not None  # a plain file has one
    try:
        with unfinished.open("wb") as file:
            shutil.copyfileobj(stream, file)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def _unpack_train(archive: Path, part: Path, wnids: set[str], advance: Advance) -> None:
    with open_tar(archive, max_bytes=_MAX_TRAIN_BYTES, max_members=2 * len(wnids)) as outer:
        for member in outer:
            check_member(member, str(archive))
            wnid = PurePosixPath(member.name).name.removesuffix(".tar")
            stream = outer.extractfile(member)
            if wnid not in wnids or stream is None:
                raise InputError(f"{archive}: member {member.name!r} is no class's archive")
            inner_name = f"{archive} > {member.name}"
            with open_tar(
                stream,
                max_bytes=_MAX_CLASS_BYTES,
                max_members=_MAX_CLASS_IMAGES,
                name=inner_name,
            ) as inner:
                _unpack_class(inner, inner_name, part / wnid, advance)


def _unpack_class(tar: tarfile.TarFile, archive: str, target: Path, advance: Advance) -> None:
    """A folder whose name appears when it is complete."""
    if target.exists():
        if _count(target) == len(tar.getmembers()):
            advance(_count(target))
            return
        shutil.rmtree(target)
    unfinished = target.with_name(f"{target.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    extract(tar, unfinished, archive=archive, advance=advance)
    os.replace(unfinished, target)
