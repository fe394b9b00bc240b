"""The random changes of training images as settings, and what the network sees of a batch."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from annotated_types import Len
from lightning import LightningDataModule
from torch import Tensor

from vgglab.data.augmentation import Augmentation
from vgglab.data.batches import Batch
from vgglab.data.bounds import Alpha, Count, CountOrZero, Share
from vgglab.data.colour import read_colour_axes
from vgglab.data.cropping import AREA, TrainCrop
from vgglab.data.transforms import Preprocessing
from vgglab.errors import InputError

Number = TypeVar("Number", int, float)


class AugmentingDataModule(LightningDataModule):
    """Turns batches of uint8 images into the network's input, on the device they are on.

    Args:
        seed: of all that is random in the data.
        augment: random changes of training images; false switches all of them off.
        pad: shift images by up to so many pixels.
        flip: mirror images left to right half of the time.
        train_scale: the paper's S (section 3.1), pixels: the shortest side that training images
            are resized to before a random crop of the network's input. A range [smallest, largest]
            draws it anew for each image. None: no such resizing. Evaluation then resizes to its
            centre, the paper's Q (section 4.1).
        crop: of training images. `random_resized`: torchvision's RandomResizedCrop. `random`: the
            paper's section 3.1, see `train_scale`. `none`: the centre, as in evaluation. None:
            `random` where `train_scale` is set; else `random_resized` for image files, and for
            images in memory no other than `pad` makes.
        crop_area: [smallest, largest] share of the area of a `random_resized` crop.
        colour_deviation: of Krizhevsky's colour shift; he used 0.1. 0 is off.
        colour_axes: `imagenet`, or a file that scripts/colour_axes.py wrote.
        mixup_alpha: of MixUp (arXiv 1710.09412); 0 is off.
        cutmix_alpha: of CutMix (arXiv 1905.04899); 0 is off. With both, one is drawn a batch.
    """

    def __init__(
        self,
        *,
        seed: CountOrZero = 0,
        augment: bool = True,
        pad: CountOrZero = 0,
        flip: bool = False,
        train_scale: Count | Annotated[list[Count], Len(2, 2)] | None = None,
        crop: TrainCrop | None = None,
        crop_area: Annotated[Sequence[Share], Len(2, 2)] = AREA,
        colour_deviation: Alpha = 0.0,
        colour_axes: str = "imagenet",
        mixup_alpha: Alpha = 0.0,
        cutmix_alpha: Alpha = 0.0,
    ) -> None:
        super().__init__()
        self.seed = seed
        self.augment = augment
        self.pad = pad
        self.flip = flip
        self.train_scale = _scale_range(train_scale)
        self.crop = crop
        self.crop_area = _ordered("crop_area", crop_area)
        self.colour_deviation = colour_deviation
        self.colour_axes = read_colour_axes(colour_axes) if colour_deviation else None
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha

    @property
    @abstractmethod
    def classes(self) -> Sequence[str]:
        """Class names in label order, known before anything is downloaded or decoded."""

    @property
    @abstractmethod
    def preprocessing(self) -> Preprocessing: ...

    @property
    def crops_one_by_one(self) -> bool:
        """Whether images are cut to the network's size when they are read.

        Or else they have it as stored, and are cropped a batch at a time, on the device.
        """
        return False

    @property
    def train_crop(self) -> TrainCrop | None:
        """What `crop` comes to. None: training images are shifted by `pad`, if at all."""
        if self.crop is None and self.train_scale is not None:
            return "random"
        if self.crop is None and self.crops_one_by_one:
            return "random_resized"
        return self.crop

    @property
    def test_scale(self) -> int | None:
        """The paper's Q for one scale: the centre of the training scale, if there is one."""
        return None if self.train_scale is None else sum(self.train_scale) // 2

    @property
    def augmentation(self) -> Augmentation:
        crop = None if self.crops_one_by_one else self.train_crop
        return Augmentation(
            seed=self.seed,
            num_classes=len(self.classes),
            pad=self.pad,
            flip=self.flip,
            scale=self.train_scale if crop == "random" else None,
            area=self.crop_area if crop == "random_resized" else None,
            colour_axes=self.colour_axes,
            colour_deviation=self.colour_deviation,
            mixup_alpha=self.mixup_alpha,
            cutmix_alpha=self.cutmix_alpha,
        )

    def check_augmentation(self) -> None:
        """
        Raises:
            InputError: settings that contradict each other, or do not fit the images.
        """
        shortest, crop = min(self.preprocessing.size), self.train_crop
        if self.train_scale is not None:
            if self.train_scale[0] < shortest:
                raise InputError(
                    f"data.train_scale={list(self.train_scale)} is below the network's input of "
                    f"{shortest} pixels, which is cropped from it"
                )
            if crop != "random":
                raise InputError(f"data.train_scale needs data.crop=random, not {crop}")
        if self.crop_area != AREA and crop != "random_resized":
            raise InputError(f"data.crop_area needs data.crop=random_resized, not {crop or 'null'}")
        if not self.crops_one_by_one:
            if self.pad and crop is not None:
                other = f"crop={crop}" if self.train_scale is None else "train_scale"
                raise InputError(f"data.{other} and data.pad: give one of them")
            if crop == "random" and self.train_scale is None:
                raise InputError("data.crop=random of images in memory needs data.train_scale")
        if self.colour_axes is not None and self.preprocessing.channels != 3:
            raise InputError("data.colour_deviation: the colour shift is of RGB images")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """On the device: augment while training, then normalise. (images, labels) leave."""
        if not isinstance(batch, Batch):
            return batch
        training = self.trainer is not None and self.trainer.training
        return self.network_input(batch, augment=training and self.augment)

    def network_input(self, batch: Batch, *, augment: bool) -> tuple[Tensor, Tensor]:
        """A loader's batch as the network sees it: float images, labels or label weights."""
        preprocessing = self.preprocessing
        if not augment:
            images = batch.images
            if not self.crops_one_by_one and preprocessing.resize is not None:
                images = preprocessing.fit(images)
            return preprocessing.normalize(images), batch.labels
        augmentation = self.augmentation
        images = augmentation.crop_and_flip(batch.images, batch.epoch, batch.indices)
        images = augmentation.shift_colours(
            preprocessing.normalize(images), preprocessing.std, batch.epoch, batch.indices
        )
        return augmentation.mix(images, batch.labels, batch.mix_seed)


def _scale_range(train_scale: int | Sequence[int] | None) -> tuple[int, int] | None:
    if isinstance(train_scale, int):
        return train_scale, train_scale
    return None if train_scale is None else _ordered("train_scale", train_scale)


def _ordered(name: str, limits: Sequence[Number]) -> tuple[Number, Number]:
    smallest, largest = limits
    if smallest > largest:
        raise InputError(f"data.{name}={[smallest, largest]}: the smallest comes first")
    return smallest, largest
