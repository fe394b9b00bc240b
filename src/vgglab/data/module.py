"""The one contract of all data sources: uint8 images from a loader, network input on the device."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, TypeVar

import torch
from annotated_types import Ge, Gt, Le, Len, Lt
from lightning import LightningDataModule
from torch import Tensor

from vgglab.data.augmentation import Augmentation
from vgglab.data.batches import Batch, BatchMaker, BatchView, OnError
from vgglab.data.colour import read_colour_axes
from vgglab.data.cropping import TrainCrop
from vgglab.data.decoding import Decoder
from vgglab.data.device import Copier, OnDevice, Residents, copied, copier_to
from vgglab.data.encoded import batch_maker, check_cuda, decoded
from vgglab.data.images import ImageSet
from vgglab.data.loading import ResumableLoader
from vgglab.data.sampling import ShardedBatches, per_device_batch_size
from vgglab.data.splitting import stratified_split
from vgglab.data.transforms import Preprocessing
from vgglab.errors import InputError

Count = Annotated[int, Gt(0)]
CountOrZero = Annotated[int, Ge(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]
Alpha = Annotated[float, Ge(0)]
Share = Annotated[float, Gt(0), Le(1)]

Number = TypeVar("Number", int, float)


class ImageDataModule(LightningDataModule):
    """Images for a run: `fit` sees a training and a validation set, `test` a third one.

    A source overrides `classes`, `preprocessing` and `load`, and `prepare_data` if it downloads.

    Args:
        batch_size: of all processes together (one step); each gets an equal part.
        num_workers: loader processes a device. 0 decodes in the training process.
        seed: of the order, the augmentation and the validation split.
        validation_fraction: of the training images, held out for validation, stratified.
        shuffle: a new order each epoch.
        augment: random changes of training images; false switches all of them off.
        pad: shift images by up to so many pixels.
        flip: mirror images left to right half of the time.
        train_scale: the paper's S (section 3.1), pixels: the shortest side that training images
            are resized to before a random crop of the network's input. A range [smallest, largest]
            draws it anew for each image. None: no such resizing. Evaluation then resizes to its
            centre, the paper's Q (section 4.1).
        random_resized: [smallest, largest] share of the area: training images in memory are cropped
            and resized as by torchvision's RandomResizedCrop. (Files: `crop`.) None: off.
        colour_deviation: of Krizhevsky's colour shift; he used 0.1. 0 is off.
        colour_axes: `imagenet`, or a file that scripts/colour_axes.py wrote.
        mixup_alpha: of MixUp (arXiv 1710.09412); 0 is off.
        cutmix_alpha: of CutMix (arXiv 1905.04899); 0 is off. With both, one is drawn a batch.
        on_device: whether images in memory live on the device as a whole, where a batch is then
            picked by its indices. `auto`: on a CUDA device, up to 1 GiB a set.
    """

    decode: Decoder = "torchvision"
    """What decodes JPEG; a setting of sources that read files."""
    on_error: OnError = "raise"
    """What becomes of an image that cannot be read; a setting of sources that read files."""

    def __init__(
        self,
        *,
        batch_size: Count = 128,
        num_workers: CountOrZero = 0,
        seed: CountOrZero = 0,
        validation_fraction: Fraction = 0.1,
        shuffle: bool = True,
        augment: bool = True,
        pad: CountOrZero = 0,
        flip: bool = False,
        train_scale: Count | Annotated[list[Count], Len(2, 2)] | None = None,
        random_resized: Annotated[list[Share], Len(2, 2)] | None = None,
        colour_deviation: Alpha = 0.0,
        colour_axes: str = "imagenet",
        mixup_alpha: Alpha = 0.0,
        cutmix_alpha: Alpha = 0.0,
        on_device: OnDevice = "auto",
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.validation_fraction = validation_fraction
        self.shuffle = shuffle
        self.augment = augment
        self.pad = pad
        self.flip = flip
        self.train_scale = _scale_range(train_scale)
        self.random_resized = None
        if random_resized is not None:
            self.random_resized = _ordered("random_resized", random_resized)
        self.colour_deviation = colour_deviation
        self.colour_axes = read_colour_axes(colour_axes) if colour_deviation else None
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.residents = Residents(on_device)
        self.sets: dict[str, ImageSet] = {}

    @property
    @abstractmethod
    def classes(self) -> Sequence[str]:
        """Class names in label order, known before anything is downloaded or decoded."""

    @property
    @abstractmethod
    def preprocessing(self) -> Preprocessing: ...

    @abstractmethod
    def load(self, split: str) -> ImageSet | None:
        """The images of `train`, `val` or `test`. None for `val`: split it off `train`."""

    @property
    def crop(self) -> TrainCrop | None:
        """The per-file crop of training images. None: images have the network's size as stored."""
        return None

    @property
    def test_scale(self) -> int | None:
        """The paper's Q for one scale: the centre of the training scale, if there is one."""
        return None if self.train_scale is None else sum(self.train_scale) // 2

    @property
    def augmentation(self) -> Augmentation:
        return Augmentation(
            seed=self.seed,
            num_classes=len(self.classes),
            pad=self.pad,
            flip=self.flip,
            scale=self.train_scale if self.crop is None else None,
            area=self.random_resized,
            colour_axes=self.colour_axes,
            colour_deviation=self.colour_deviation,
            mixup_alpha=self.mixup_alpha,
            cutmix_alpha=self.cutmix_alpha,
        )

    def setup(self, stage: str) -> None:
        """Load what `stage` needs, once."""
        if stage in ("fit", "validate") and "train" not in self.sets:
            self._setup_training()
        if stage == "test" and "test" not in self.sets:
            self.sets["test"] = self._loaded("test")

    def _setup_training(self) -> None:
        train, validation = self._loaded("train"), self.load("val")
        if validation is None:
            if not self.validation_fraction:
                raise InputError("data.validation_fraction=0, but this data has no validation set")
            kept, held_out = stratified_split(train.labels, self.validation_fraction, self.seed)
            train, validation = train.subset(kept), train.subset(held_out)
        self._check_augmentation()
        self.sets["train"], self.sets["val"] = train, validation

    def _check_augmentation(self) -> None:
        shortest = min(self.preprocessing.size)
        if self.train_scale is not None:
            if self.train_scale[0] < shortest:
                raise InputError(
                    f"data.train_scale={list(self.train_scale)} is below the network's input of "
                    f"{shortest} pixels, which is cropped from it"
                )
            if self.crop not in (None, "random"):
                raise InputError(f"data.train_scale needs data.crop=random, not {self.crop}")
            if self.crop is None and self.pad:
                raise InputError("data.train_scale and data.pad: give one of them")
        if self.random_resized is not None:
            if self.crop is not None:
                raise InputError(
                    "data.random_resized: of images in memory; files have data.crop=random_resized"
                )
            if self.pad or self.train_scale is not None:
                other = "pad" if self.pad else "train_scale"
                raise InputError(f"data.random_resized and data.{other}: give one of them")
        if self.colour_axes is not None and self.preprocessing.channels != 3:
            raise InputError("data.colour_deviation: the colour shift is of RGB images")

    def _loaded(self, split: str) -> ImageSet:
        images = self.load(split)
        if images is None or not len(images):
            raise InputError(f"{type(self).__name__} has no {split} images")
        self.residents.check(images)
        return images

    def train_dataloader(self) -> ResumableLoader:
        rank, world_size = self._world()
        per_device_batch_size(self.batch_size, world_size)  # refuses what cannot be divided
        train = self.sets["train"]
        if len(train) < self.batch_size:
            raise InputError(
                f"data.batch_size={self.batch_size} is larger than the training set "
                f"({len(train)} images)"
            )
        batches = ShardedBatches(
            len(train),
            self.batch_size,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            shuffle=self.shuffle,
            drop_last=True,
        )
        crop = self.crop
        if crop is not None and not self.augment:
            crop = "none"
        return self._loader(BatchView(train, self._maker(crop, training=True), self.seed), batches)

    def val_dataloader(self) -> ResumableLoader:
        return self._evaluation_loader("val")

    def test_dataloader(self) -> ResumableLoader:
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: str) -> ResumableLoader:
        rank, world_size = self._world()
        images = self.sets[split]
        batches = ShardedBatches(
            len(images), self.batch_size, rank=rank, world_size=world_size, seed=self.seed
        )
        maker = self._maker(None if self.crop is None else "none", training=False)
        return self._loader(BatchView(images, maker, self.seed), batches)

    def _maker(self, crop: TrainCrop | None, *, training: bool) -> BatchMaker | None:
        if crop is None:
            return None
        cropping = self.preprocessing.cropping(crop)
        return batch_maker(cropping, self.seed, self.decode, self.on_error, training=training)

    def _loader(self, view: BatchView, batches: ShardedBatches) -> ResumableLoader:
        device, workers = self._device(), self.num_workers
        copier: Copier | None = None
        if device.type == "cuda":
            copier = copier_to(device, partial(copied, device=device))
        if self.decode == "cuda" and self.crop is not None:
            check_cuda(device)
            copier = copier_to(device, partial(decoded, device=device))
        if (resident := self.residents.copy_of(view.images, device)) is not None:
            copier = copier_to(device, resident)
            view, workers = replace(view, images=resident.elsewhere), 0
        return ResumableLoader(
            view,
            batches,
            copier=copier,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )

    def _device(self) -> torch.device:
        """Where the network is."""
        if self.trainer is None:
            return torch.device("cpu")
        return self.trainer.strategy.root_device

    def _world(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

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
            if self.crop is None and preprocessing.resize is not None:
                images = preprocessing.fit(images)
            return preprocessing.normalize(images), batch.labels
        augmentation = self.augmentation
        images = augmentation.crop_and_flip(batch.images, batch.epoch, batch.indices)
        images = augmentation.shift_colours(
            preprocessing.normalize(images), preprocessing.std, batch.epoch, batch.indices
        )
        return augmentation.mix(images, batch.labels, batch.seed)


def _scale_range(train_scale: int | Sequence[int] | None) -> tuple[int, int] | None:
    if isinstance(train_scale, int):
        return train_scale, train_scale
    return None if train_scale is None else _ordered("train_scale", train_scale)


def _ordered(name: str, limits: Sequence[Number]) -> tuple[Number, Number]:
    smallest, largest = limits
    if smallest > largest:
        raise InputError(f"data.{name}={[smallest, largest]}: the smallest comes first")
    return smallest, largest
