"""The one contract of all data sources: uint8 images from a loader, network input on the device."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from vgglab.data.augmented_module import AugmentingDataModule
from vgglab.data.batches import BatchView, OnError
from vgglab.data.bounds import Count, CountOrZero, Fraction
from vgglab.data.device import OnDevice, Residents, SideStream, copy_to
from vgglab.data.encoded import AnyBatchMaker, EncodedBatchMaker, check_cuda
from vgglab.data.images import ImageSet
from vgglab.data.loading import ResumableLoader
from vgglab.data.sampling import ShardedBatches, per_device_batch_size
from vgglab.data.splitting import stratified_split
from vgglab.errors import InputError


class ImageDataModule(AugmentingDataModule):
    """Images for a run: `fit` sees a training and a validation set, `test` a third one.

    A source overrides `classes`, `preprocessing` and `load`, and `prepare_data` if it downloads.

    Args:
        batch_size: of all processes together (one step); each gets an equal part.
        num_workers: loader processes a device. 0 decodes in the training process.
        validation_fraction: of the training images, held out for validation, stratified.
        shuffle: a new order each epoch.
        on_device: whether images in memory live on the device as a whole, where a batch is then
            picked by its indices. `auto`: on a CUDA device, up to 1 GiB a set.
        **common: see `AugmentingDataModule`.
    """

    on_error: OnError = "raise"
    """What becomes of an image that cannot be read; a setting of sources that read files."""

    def __init__(
        self,
        *,
        batch_size: Count = 128,
        num_workers: CountOrZero = 0,
        validation_fraction: Fraction = 0.1,
        shuffle: bool = True,
        on_device: OnDevice = "auto",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.validation_fraction = validation_fraction
        self.shuffle = shuffle
        self.residents = Residents(on_device)
        self.sets: dict[str, ImageSet] = {}

    @abstractmethod
    def load(self, split: str) -> ImageSet | None:
        """The images of `train`, `val` or `test`. None for `val`: split it off `train`."""

    def stored_split(self, split: str) -> ImageSet | None:
        """The images of `train`, `val` or `test` as they are stored, whatever a run makes of them.

        None: there are none, though a run may take its `val` or `test` images from others.
        """
        return self.load(split)

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
        self.check_augmentation()
        self.sets["train"], self.sets["val"] = train, validation

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
        batches = self._batches(
            train,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            shuffle=self.shuffle,
            drop_last=True,
        )
        return self._loader(BatchView(train, self._maker(training=True), self.seed), batches)

    def val_dataloader(self) -> ResumableLoader:
        return self._evaluation_loader("val")

    def test_dataloader(self) -> ResumableLoader:
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: str) -> ResumableLoader:
        rank, world_size = self._world()
        images = self.sets[split]
        batches = self._batches(images, seed=self.seed, rank=rank, world_size=world_size)
        view = BatchView(images, self._maker(training=False), self.seed)
        return self._loader(view, batches)

    def _maker(self, *, training: bool) -> AnyBatchMaker | None:
        """What makes the batches of image files; images in one tensor need none."""
        return None

    def _batches(self, images: ImageSet, **settings: Any) -> ShardedBatches:
        """Which images make which batch; `settings` are those of `ShardedBatches`."""
        return ShardedBatches(len(images), self.batch_size, **settings)

    def _loader(self, view: BatchView, batches: ShardedBatches) -> ResumableLoader:
        device, workers = self._device(), self.num_workers
        place: Callable[[Any], Any] = partial(copy_to, device=device)
        if isinstance(view.make, EncodedBatchMaker):
            check_cuda(device)
            place = partial(view.make.decode, device=device)
        if (resident := self.residents.copy_of(view.images, device)) is not None:
            place = resident
            view, workers = replace(view, images=resident.without_pixels), 0
        is_gpu = device.type == "cuda"
        return ResumableLoader(
            view,
            batches,
            stream=SideStream(device, place) if is_gpu else None,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=is_gpu,
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
