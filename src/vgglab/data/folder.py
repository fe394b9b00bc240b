"""Images in folders, `root/split/class/image`: files when they are large, one tensor when small."""

import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt, Len
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from vgglab.data.batches import OnError
from vgglab.data.cropping import TrainCrop
from vgglab.data.decoding import Decoder, decode, image_size
from vgglab.data.images import FileImages, ImageSet, TensorImages
from vgglab.data.listing import labelled_files, sub_folders
from vgglab.data.module import Count, ImageDataModule
from vgglab.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    preprocessing_of_files,
)
from vgglab.errors import InputError
from vgglab.progress import each

# Not Lightning's `rank_zero_info`: a run silences that logger.
_notice = rank_zero_only(logging.getLogger(__name__).warning)

_SPLIT_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_SMALL = 64  # pixels a side, up to which `in_memory=auto` keeps images

Mean = Annotated[Sequence[float], Len(3, 3)]
Std = Annotated[Sequence[Annotated[float, Gt(0)]], Len(3, 3)]


class ImageFolder(ImageDataModule):
    """Any tree of `root/{train,val,test}/class/image`; `valid` and `validation` mean `val`.

    Without a `test` folder the `val` folder is the test set. With `validation=auto` it is then the
    validation set too, so that test figures are validation figures (ImageNet's custom);
    `validation=split` keeps the two apart.

    Args:
        root: the folder that holds `train`.
        validation: `folder` is the `val` folder, `split` a part (`validation_fraction`) of the
            training images, `auto` the folder where there is one and else the split.
        in_memory: keep decoded images as one tensor. They must be of one size. They are then used
            at that size, with `pad` and `flip` and no `crop`. `auto`: if no side is above 64 pixels
            and they fit in `memory_limit_gib`.
        memory_limit_gib: of all images of the tree, GiB a process.
        image_size: height and width of the network's input. None: as stored in memory, 224 for
            files. Images that are to be resized are read as files.
        resize_size: the shortest side before the centre crop. None: the centre of `train_scale`,
            or without one 256/224 of `image_size`.
        crop: of training images read as files, see `Preprocessing.cropping`. None: `random` where
            `train_scale` is set, else `random_resized`.
        decode: of images read as files, see `decoding.Decoder`.
        on_error: of an image that cannot be read: `raise` ends the run; `skip` goes on without it,
            see `BatchMaker` for files; images in memory are then fewer.
        mean: per channel, of pixels scaled to 0..1. Default ImageNet's.
        std: likewise.
        **common: see `ImageDataModule`.
    """

    hint = "expected root/train/<class>/<image>"

    def __init__(
        self,
        *,
        root: str,
        validation: Literal["auto", "folder", "split"] = "auto",
        in_memory: Literal["auto", True, False] = "auto",
        memory_limit_gib: Annotated[float, Gt(0)] = 4.0,
        image_size: Count | None = None,
        resize_size: Count | None = None,
        crop: TrainCrop | None = None,
        decode: Decoder = "torchvision",
        on_error: OnError = "raise",
        mean: Mean = IMAGENET_MEAN,
        std: Std = IMAGENET_STD,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.root = Path(root).expanduser()
        self.validation = validation
        self.in_memory = in_memory
        self.memory_limit_gib = memory_limit_gib
        self.image_size = image_size
        self.resize_size = resize_size
        self.file_crop: TrainCrop = crop or (
            "random_resized" if self.train_scale is None else "random"
        )
        self.decode = decode
        self.on_error = on_error
        self.mean = tuple(mean)
        self.std = tuple(std)

    @property
    def tree(self) -> Path:
        """The folder that holds `train`."""
        return self.root

    @property
    def classes(self) -> Sequence[str]:
        return self.class_folders

    @cached_property
    def class_folders(self) -> list[str]:
        """Names of the class folders in label order."""
        folder = self.split_folder("train")
        if folder is None:
            problem = "no train folder in it" if self.tree.is_dir() else "no such folder"
            raise InputError(f"data.root={self.tree}: {problem}; {self.hint}")
        names = sub_folders(folder)
        if len(names) < 2:
            found = f"only one class folder ({names[0]})" if names else "no class folders"
            raise InputError(f"data.root={self.tree}: {found} in {folder}; {self.hint}")
        return names

    def split_folder(self, split: str) -> Path | None:
        """Where `train`, `val` or `test` lies, if it is there."""
        folders = (self.tree / name for name in _SPLIT_NAMES[split])
        return next((folder for folder in folders if folder.is_dir()), None)

    @property
    def preprocessing(self) -> Preprocessing:
        if self.stored_size is not None:
            return Preprocessing(
                self.mean, self.std, self.stored_size, self.test_scale, self.train_scale
            )
        return preprocessing_of_files(
            self.mean,
            self.std,
            image_size=self.image_size,
            resize_size=self.resize_size,
            train_scale=self.train_scale,
            test_scale=self.test_scale,
            crop=self.file_crop,
        )

    @property
    def crop(self) -> TrainCrop | None:
        return self.file_crop if self.stored_size is None else None

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
            raise InputError(f"data.root={self.tree}: none of its images can be read") from None
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
            except InputError:
                if self.on_error == "raise":
                    raise

    def load(self, split: str) -> ImageSet | None:
        folder = self.split_folder(split)
        if split == "val":
            if self.validation == "split" or (folder is None and self.validation == "auto"):
                return None
            if folder is None:
                raise InputError(f"data.validation=folder: no val folder in {self.tree}")
        if split == "test" and folder is None:
            folder = self.split_folder("val")
            if folder is None:
                raise InputError(f"data.root={self.tree}: no test and no val folder to test on")
            _notice(
                f"{self.tree} has no test folder: {folder} is the test set"
                + ("" if self.validation == "split" else ", and the validation set too")
            )
        if folder is None:
            self.class_folders  # noqa: B018 - says what is missing
            raise AssertionError("a tree with classes has a train folder")
        files, labels = self._files(folder)
        source = f"data.root={self.tree}"
        if self.stored_size is None:
            return FileImages(folder, files, labels, self.classes, source=source)
        images, kept, skipped = self._decoded([folder / file for file in files], self.stored_size)
        return TensorImages(images, labels[kept], self.classes, source=source, skipped=skipped)

    def _decoded(
        self, files: Sequence[Path], size: tuple[int, int]
    ) -> tuple[Tensor, list[int], list[str]]:
        """(N, 3, height, width) uint8, which files they are, and a line for each other one."""
        images = torch.empty((len(files), 3, *size), dtype=torch.uint8)
        kept: list[int] = []
        skipped: list[str] = []
        for i, file in enumerate(each(files, "decode", unit="images")):
            try:
                decoded = decode(file)
            except InputError as error:
                if self.on_error == "raise":
                    raise
                skipped.append(str(error))
                continue
            if decoded.shape[1:] != size:  # EXIF turned it: the header's size is another
                raise InputError(
                    f"{file} is turned by its EXIF entry and differs from the other images: "
                    "set data.in_memory=false"
                )
            images[len(kept)] = decoded
            kept.append(i)
        return images[: len(kept)], kept, skipped

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
