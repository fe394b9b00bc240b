"""Images in folders, `root/split/class/image`: files when they are large, one tensor when small."""

import logging
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt, Len
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from vgglab.data.cropping import TrainCrop
from vgglab.data.decoding import IMAGE_SUFFIXES, decode, image_size
from vgglab.data.images import FileImages, ImageSet, TensorImages
from vgglab.data.module import Count, ImageDataModule
from vgglab.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from vgglab.errors import InputError
from vgglab.progress import each

# Not Lightning's `rank_zero_info`: a run silences that logger.
_notice = rank_zero_only(logging.getLogger(__name__).warning)

_SPLIT_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_SMALL = 64  # pixels a side, up to which `in_memory=auto` keeps images
_FILE_SIZE = 224  # the network's input for files, as in the paper's section 2.1
_RESIZE = 256 / 224  # the shortest side before the crop: the paper's S = Q = 256 for input 224

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
        crop: of training images read as files, see `train_crop`. None: `random` where `train_scale`
            is set, else `random_resized`.
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
        names = _class_folders(folder)
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
        size = self.image_size or _FILE_SIZE
        resize = self.resize_size or self.test_scale or round(size * _RESIZE)
        if resize < size:
            name = "resize_size" if self.resize_size else "train_scale"
            raise InputError(f"data.{name}: {resize} is smaller than data.image_size={size}")
        train_scale = self.train_scale
        if train_scale is None and self.file_crop == "random":
            train_scale = (resize, resize)
        return Preprocessing(self.mean, self.std, (size, size), resize, train_scale)

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
        size = image_size(files[0])
        as_stored = self.image_size is None or (self.image_size, self.image_size) == size
        if self.resize_size is not None or not as_stored:
            return size, f"{files[0]} has {_shown(size)} pixels and would have to be resized"
        if self.in_memory == "auto" and max(size) > _SMALL:
            return size, f"{_shown(size)} pixels are not small"
        gib = len(files) * 3 * size[0] * size[1] / 2**30
        if gib > self.memory_limit_gib:
            limit = f"data.memory_limit_gib={self.memory_limit_gib:g}"
            return size, f"{len(files):,} images need {gib:.1f} GiB, more than {limit}"
        for file in each(files, "read image sizes", unit="files"):
            if (other := image_size(file)) != size:
                return size, f"{files[0]} has {_shown(size)} pixels, {file} {_shown(other)}"
        return size, None

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
            return FileImages(folder, files, labels, self.classes, decode, source=source)
        images = _decode_all([folder / file for file in files], self.stored_size)
        return TensorImages(images, labels, self.classes, source=source)

    def _files(self, folder: Path) -> tuple[list[str], Tensor]:
        self._check_classes(folder)
        return _labelled_files(folder, self.class_folders)

    def _check_classes(self, folder: Path) -> None:
        known, here = set(self.class_folders), set(_class_folders(folder))
        if known != here:
            missing, extra = sorted(known - here), sorted(here - known)
            raise InputError(
                f"{folder} must have the classes of the training images; "
                f"missing: {_some(missing)}; not among them: {_some(extra)}"
            )


def list_images(folder: Path) -> tuple[list[str], Tensor | None, list[str]]:
    """The images of `folder/class/image`, or of a folder without sub-folders.

    Returns:
        Files relative to `folder`, sorted; their labels (N,) int64 and the classes' names in label
        order, or None and no names where there are no sub-folders.

    Raises:
        InputError: no such folder, no images in it or in a class, or images beside the classes.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    with os.scandir(folder) as entries:
        here = sorted(e.name for e in entries if _is_image(e.name) and _checked_file(e))
    classes = _class_folders(folder)
    if here and classes:
        raise InputError(
            f"{folder}: images ({here[0]}) beside folders ({classes[0]}); "
            "expected <class>/<image>, or images alone"
        )
    if not here and not classes:
        raise InputError(f"{folder}: no images in it")
    return (here, None, []) if here else (*_labelled_files(folder, classes), classes)


def _labelled_files(folder: Path, classes: Sequence[str]) -> tuple[list[str], Tensor]:
    """Image files below `folder`, relative to it, with their labels; sorted, so that an index
    means the same image on every machine."""
    files: list[str] = []
    counts = []
    for name in each(classes, f"list {folder.name}", unit="folders"):
        found, others = _image_files(folder, name)
        if not found:
            also = f", only e.g. {others[0]}" if others else ""
            endings = " ".join(sorted(IMAGE_SUFFIXES))
            raise InputError(f"{folder / name}: no images ({endings}) in it{also}")
        if others:
            _notice(f"{folder / name}: {len(others)} files are no images ({others[0]})")
        files += found
        counts.append(len(found))
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return files, labels


def _class_folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _image_files(folder: Path, name: str) -> tuple[list[str], list[str]]:
    """Images below `folder/name`, and what else is there, both relative to `folder`."""
    images: list[str] = []
    others: list[str] = []
    for file in _walk(str(folder), name):
        (images if _is_image(file) else others).append(file)
    return sorted(images), sorted(others)


def _is_image(file: str) -> bool:
    return os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES


def _walk(root: str, below: str) -> Iterator[str]:
    with os.scandir(os.path.join(root, below)) as entries:
        for entry in entries:
            if entry.name.startswith("."):  # what desktops leave behind
                continue
            path = f"{below}/{entry.name}"
            if entry.is_dir():
                yield from _walk(root, path)
            elif not _is_image(entry.name) or _checked_file(entry):
                yield path


def _checked_file(entry: "os.DirEntry[str]") -> bool:
    if not entry.is_file():  # a pipe would be waited for
        raise InputError(f"{entry.path}: neither a file nor a link to one")
    return True


def _decode_all(files: Sequence[Path], size: tuple[int, int]) -> Tensor:
    """(N, 3, height, width) uint8."""
    images = torch.empty((len(files), 3, *size), dtype=torch.uint8)
    for image, file in zip(images, each(files, "decode", unit="images"), strict=True):
        decoded = decode(file)
        if decoded.shape != image.shape:  # EXIF turned it: the header's size is another
            raise InputError(
                f"{file} is turned by its EXIF entry and differs from the other images: "
                "set data.in_memory=false"
            )
        image.copy_(decoded)
    return images


def _shown(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3]) or "none"
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
