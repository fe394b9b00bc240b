"""Imagenette v2 (fast.ai): ten easily told classes of ImageNet, downloaded when missing."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from vgglab.data.images import FileImages
from vgglab.data.sources.archives import extract, open_tar
from vgglab.data.sources.download import download
from vgglab.data.sources.folder import ImageFolder
from vgglab.errors import InputError
from vgglab.progress import progress

Size = Literal["full", "320px", "160px"]

# Folder, and the archive's checksum as in torchvision.datasets.Imagenette and bytes as in
# TensorFlow Datasets.
_ARCHIVES: dict[Size, tuple[str, str, int]] = {
    "full": ("imagenette2", "md5:fe2fc210e6bb7c5664d602c3cd71e612", 1_557_161_267),
    "320px": ("imagenette2-320", "md5:3df6f0d01a2c9592104656642f5e78a3", 341_663_724),
    "160px": ("imagenette2-160", "md5:e793b78cc4c9e9a4ccc0c1155377a412", 99_003_388),
}
_MAX_BYTES = 4 << 30  # unpacked; the full size has 1.5 GB
_MAX_MEMBERS = 20_000  # 13,394 images

NAMES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


class Imagenette(ImageFolder):
    """9,469 training and 3,925 validation images; the latter are the test set.

    Args:
        root: a folder that holds `train` and `val`, of any image size; or else the folder that the
            archive is downloaded to and unpacked in.
        size: the shortest side of the images to download.
        mirrors: folders that hold the archives, as web addresses, tried in order.
        **common: see `ImageFolder`.
    """

    def __init__(
        self,
        *,
        root: str = "data",
        size: Size = "320px",
        mirrors: Sequence[str] = (),
        **common: Any,
    ) -> None:
        super().__init__(root=root, **common)
        self.size = size
        self.mirrors = mirrors

    @property
    def tree(self) -> Path:
        if (self.root / "train").is_dir():
            return self.root
        return self.root / _ARCHIVES[self.size][0]

    @property
    def classes(self) -> Sequence[str]:
        return list(NAMES.values())

    def prepare_data(self) -> None:
        tree = self.tree
        if tree.is_dir():
            return
        name, checksum, size = _ARCHIVES[self.size]
        archive = self.root / f"{name}.tgz"
        urls = [f"{mirror.rstrip('/')}/{archive.name}" for mirror in self.mirrors]
        download(urls, archive, checksum=checksum, size=size)
        with FileLock(f"{tree}.lock"):
            if not tree.is_dir():  # another node may have unpacked it meanwhile
                _unpack(archive, tree)

    def stored_split(self, split: str) -> FileImages | None:
        if self.class_folders != list(NAMES):
            raise InputError(
                f"{self.where}: its class folders are not Imagenette's ten; "
                "data=image_folder takes any"
            )
        return super().stored_split(split)


def _unpack(archive: Path, tree: Path) -> None:
    """The one folder of the archive to `tree`, which appears when it is complete."""
    unfinished = tree.with_name(f"{tree.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    with (
        open_tar(archive, max_bytes=_MAX_BYTES, max_members=_MAX_MEMBERS) as tar,
        progress(f"unpack {archive.name}", None, unit="files") as advance,
    ):
        extract(tar, unfinished, archive=str(archive), advance=advance)
    os.replace(unfinished / tree.name, tree)
    shutil.rmtree(unfinished)
