"""What sources of image files have in common, be the files in folders or in shards."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import Gt, Len

from vgglab.data.batches import BatchMaker, OnError
from vgglab.data.bounds import Count
from vgglab.data.decoding import Decoder
from vgglab.data.encoded import AnyBatchMaker, EncodedBatchMaker
from vgglab.data.images import EncodedImages, ImageSet
from vgglab.data.module import ImageDataModule
from vgglab.data.notices import notice
from vgglab.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from vgglab.errors import InputError
from vgglab.extras import require

_IMAGE_SIZE = 224  # as in the paper's section 2.1
_RESIZE = 256 / 224  # the shortest side before the crop: the paper's S = Q = 256 for input 224


class EncodedDataModule(ImageDataModule):
    """Images of any size, decoded anew each time they are needed and cut to the network's size.

    Without a `test` folder the `val` folder is the test set. With `validation=auto` it is then the
    validation set too, so that test figures are validation figures (ImageNet's custom);
    `validation=split` keeps the two apart.

    A source overrides `where`, `classes` and `stored_split`.

    Args:
        validation: `folder` is the `val` folder, `split` a part (`validation_fraction`) of the
            training images, `auto` the folder where there is one and else the split.
        image_size: height and width of the network's input. None: 224.
        resize_size: the shortest side before the centre crop. None: the centre of `train_scale`,
            or without one 256/224 of `image_size`.
        decode: see `decoding.Decoder`.
        on_error: of an image that cannot be read: `raise` ends the run; `skip` goes on without it,
            see `BatchMaker`.
        mean: per channel, of pixels scaled to 0..1. Default ImageNet's.
        std: likewise.
        **common: see `ImageDataModule`.
    """

    def __init__(
        self,
        *,
        validation: Literal["auto", "folder", "split"] = "auto",
        image_size: Count | None = None,
        resize_size: Count | None = None,
        decode: Decoder = "torchvision",
        on_error: OnError = "raise",
        mean: Annotated[Sequence[float], Len(3, 3)] = IMAGENET_MEAN,
        std: Annotated[Sequence[Annotated[float, Gt(0)]], Len(3, 3)] = IMAGENET_STD,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.validation = validation
        self.image_size = image_size
        self.resize_size = resize_size
        self.decode = decode
        self.on_error = on_error
        self.mean = tuple(mean)
        self.std = tuple(std)

    @property
    @abstractmethod
    def where(self) -> str:
        """The setting that says where the images are, and its value: `data.root=photos`."""

    @abstractmethod
    def stored_split(self, split: str) -> EncodedImages | None:
        """The files of `train`, `val` or `test`, if there is such a folder."""

    @property
    def crops_one_by_one(self) -> bool:
        return True

    @property
    def preprocessing(self) -> Preprocessing:
        """
        Raises:
            InputError: the crop would be larger than what it is taken from.
        """
        size = self.image_size or _IMAGE_SIZE
        resize = self.resize_size or self.test_scale or round(size * _RESIZE)
        if resize < size:
            name = "resize_size" if self.resize_size else "train_scale"
            raise InputError(f"data.{name}: {resize} is smaller than data.image_size={size}")
        scale = self.train_scale
        if scale is None and self.crop == "random":
            scale = (resize, resize)
        return Preprocessing(self.mean, self.std, (size, size), resize, scale)

    def load(self, split: str) -> ImageSet | None:
        if split == "val" and self.validation == "split":
            return None
        images = self.stored_split(split)
        if images is None and split == "val":
            if self.validation == "folder":
                raise InputError(f"data.validation=folder: no val folder in {self.where}")
            return None
        if images is None and split == "test":
            images = self.stored_split("val")
            if images is None:
                raise InputError(f"{self.where}: no test and no val folder to test on")
            also = "" if self.validation == "split" else ", and the validation set too"
            notice(f"{self.where} has no test folder: val is the test set{also}")
        if images is None:
            raise InputError(f"{self.where}: no {split} folder")
        return images

    def _maker(self, *, training: bool) -> AnyBatchMaker | None:
        if not self.crops_one_by_one:
            return None
        crop = self.train_crop if training and self.augment else "none"
        cropping = self.preprocessing.cropping(crop or "none", self.crop_area)
        if self.decode == "simplejpeg":
            require("simplejpeg", extra="turbo", what="data.decode=simplejpeg")
        decoder = "torchvision" if self.decode == "cuda" else self.decode
        maker = BatchMaker(cropping, self.seed, decoder, self.on_error, training)
        return EncodedBatchMaker(maker) if self.decode == "cuda" else maker
