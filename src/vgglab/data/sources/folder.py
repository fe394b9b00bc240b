"""Images in folders, `root/split/class/image`: files when they are large, one tensor when small."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from vgglab.data.decoding import image_size
from vgglab.data.images import FileImages, ImageSet, TensorImages
from vgglab.data.sources.encoded_source import EncodedDataModule
from vgglab.data.sources.listing import labelled_files, sub_folders
from vgglab.data.transforms import Preprocessing
from vgglab.errors import BrokenImageError, InputError
from vgglab.progress import each

_SPLIT_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_SMALL = 64  # pixels a side, up to which `in_memory=auto` keeps images


class ImageFolder(EncodedDataModule):
    """Any tree of `root/{train,val,test}/class/image`; `valid` and `validation` mean `val`.

    Args:
        root: the folder that holds `train`.
        in_memory: keep images as one tensor. They must be of one size and are used at that size.
            They are decoded once, on the CPU, whatever `decode` says; with `on_error=skip` those
            that cannot be read are left out. `auto`: if no side is above 64 pixels and they fit in
            `memory_limit_gib`. Images that are to be resized are read as files.
        memory_limit_gib: of all images of the tree, GiB a process.
        **common: see `EncodedDataModule` and `ImageDataModule`.
    """

    hint = "expected root/train/<class>/<image>"

    def __init__(
        self,
        *,
        root: str,
        in_memory: Literal["auto", True, False] = "auto",
        memory_limit_gib: Annotated[float, Gt(0)] = 4.0,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.root = Path(root).expanduser()
        self.in_memory = in_memory
        self.memory_limit_gib = memory_limit_gib

    @property
    def tree(self) -> Path:
        """The folder that holds `train`."""
        return self.root

    @property
    def where(self) -> str:
        return f"data.root={self.tree}"

    @property
    def classes(self) -> Sequence[str]:
        return self.class_folders

    @cached_property
    def class_folders(self) -> list[str]:
        """Names of the class folders in label order."""
        folder = self.split_folder("train")
        if folder is None:
            problem = "no train folder in it" if self.tree.is_dir() else "no such folder"
            raise InputError(f"{self.where}: {problem}; {self.hint}")
        names = sub_folders(folder)
        if len(names) < 2:
            found = f"only one class folder ({names[0]})" if names else "no class folders"
            raise InputError(f"{self.where}: {found} in {folder}; {self.hint}")
        return names

    def split_folder(self, split: str) -> Path | None:
        """Where `train`, `val` or `test` lies, if it is there."""
        folders = (self.tree / name for name in _SPLIT_NAMES[split])
        return next((folder for folder in folders if folder.is_dir()), None)

    @property
    def preprocessing(self) -> Preprocessing:
        if self.stored_size is None:
            return super().preprocessing
        return Preprocessing(
            self.mean, self.std, self.stored_size, self.test_scale, self.train_scale
        )

    @property
    def crops_one_by_one(self) -> bool:
        return self.stored_size is None

    @cached_property
    def stored_size(self) -> tuple[int, int] | None:
        """Height and width of all images, if they are kept in memory. Reads headers only."""
        if self.in_memory is False:
            return None
        size, refusal = self._common_size()
        if refusal is None:
            return size
        if self.in_memory is True:
            raise InputError(f"data.in_memory=true: {refusal}")
        return None

    def _common_size(self) -> tuple[tuple[int, int], str | None]:
        """The size of the first image, and why not all images can be kept at it."""
        folders = filter(None, map(self.split_folder, _SPLIT_NAMES))
        files = [folder / file for folder in folders for file in self._files(folder)[0]]
        sizes = self._sizes(files)
        try:
            file, size = next(sizes)
        except StopIteration:
            raise InputError(f"{self.where}: none of its images can be read") from None
        as_stored = self.image_size is None or (self.image_size, self.image_size) == size
        if self.resize_size is not None or not as_stored:
            return size, f"{file} has {_shown(size)} pixels and would have to be resized"
        if self.in_memory == "auto" and max(size) > _SMALL:
            return size, f"{_shown(size)} pixels are not small"
        gib = len(files) * 3 * size[0] * size[1] / 2**30
        if gib > self.memory_limit_gib:
            limit = f"data.memory_limit_gib={self.memory_limit_gib:g}"
            return size, f"{len(files):,} images need {gib:.1f} GiB, more than {limit}"
        for other, its_size in sizes:
            if its_size != size:
                return size, f"{file} has {_shown(size)} pixels, {other} {_shown(its_size)}"
        return size, None

    def _sizes(self, files: Sequence[Path]) -> Iterator[tuple[Path, tuple[int, int]]]:
        """The files that can be read, with height and width."""
        for file in each(files, "read image sizes", unit="files"):
            try:
                yield file, image_size(file)
            except BrokenImageError:
                if self.on_error == "raise":
                    raise

    def stored_split(self, split: str) -> FileImages | None:
        self.class_folders  # noqa: B018 - says what is missing of `train`
        folder = self.split_folder(split)
        if folder is None:
            return None
        files, labels = self._files(folder)
        return FileImages(folder, files, labels, self.classes, source=self.where)

    def load(self, split: str) -> ImageSet | None:
        images = super().load(split)
        if isinstance(images, FileImages) and self.stored_size is not None:
            return self._decode_all(images, self.stored_size)
        return images

    def _decode_all(self, files: FileImages, size: tuple[int, int]) -> TensorImages:
        images = torch.empty((len(files), 3, *size), dtype=torch.uint8)
        kept: list[int] = []
        skipped: list[str] = []
        for i in each(range(len(files)), "decode", unit="images"):
            try:
                image = files.image(i)
            except BrokenImageError as error:
                if self.on_error == "raise":
                    raise
                skipped.append(str(error))
                continue
            if image.shape[1:] != size:  # EXIF turned it: the header's size is another
                raise InputError(
                    f"{files.name(i)} is turned by its EXIF entry and differs from the other "
                    "images: set data.in_memory=false"
                )
            images[len(kept)] = image
            kept.append(i)
        labels, images = files.labels[kept], images[: len(kept)]
        return TensorImages(images, labels, self.classes, source=self.where, skipped=skipped)

    def _files(self, folder: Path) -> tuple[list[str], Tensor]:
        self._check_classes(folder)
        return labelled_files(folder, self.class_folders)

    def _check_classes(self, folder: Path) -> None:
        known, here = set(self.class_folders), set(sub_folders(folder))
        if known != here:
            missing, extra = sorted(known - here), sorted(here - known)
            raise InputError(
                f"{folder} must have the classes of the training images; "
                f"missing: {_some(missing)}; not among them: {_some(extra)}"
            )


def _shown(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3]) or "none"
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
