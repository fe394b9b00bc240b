"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the official archives into one tensor.

The binary versions are read: plain bytes, where the Python versions are pickles, which can run
anything on loading. Layout, per https://www.cs.toronto.edu/~kriz/cifar.html: label bytes, then 3072
bytes of one image, channel by channel, row by row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vgglab.data.images import TensorImages
from vgglab.data.module import ImageDataModule
from vgglab.data.sources.archives import open_tar, read_member
from vgglab.data.sources.download import download
from vgglab.data.transforms import Preprocessing
from vgglab.errors import InputError

_PIXELS = 3 * 32 * 32
_MAX_BYTES = 1 << 28  # unpacked; both archives have 184 MB
_MAX_MEMBERS = 100


@dataclass(frozen=True)
class Source:
    """One official archive. Its mirrors, slow official server last, stand in the configuration."""

    file: str
    checksum: str
    size: int
    """Bytes."""
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int
    """Before each image; the last one is the label that counts (CIFAR-100 has two)."""
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Checksums and sizes as in TensorFlow Datasets' registered checksums of the same archives.
CIFAR10_SOURCE = Source(
    file="cifar-10-binary.tar.gz",
    checksum="sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    size=170_052_171,
    train=tuple(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
    test=("cifar-10-batches-bin/test_batch.bin",),
    label_bytes=1,
    classes=_words("airplane automobile bird cat deer dog frog horse ship truck"),
    mean=(0.4914, 0.4822, 0.4465),  # of the 50,000 training images
    std=(0.2470, 0.2435, 0.2616),
)

CIFAR100_SOURCE = Source(
    file="cifar-100-binary.tar.gz",
    checksum="sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    size=168_513_733,
    train=("cifar-100-binary/train.bin",),
    test=("cifar-100-binary/test.bin",),
    label_bytes=2,
    classes=_words(
        """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
        butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
        crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
        keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
        mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain
        plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
        skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
        television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman
        worm"""
    ),
    mean=(0.5071, 0.4865, 0.4409),  # of the 50,000 training images
    std=(0.2673, 0.2564, 0.2762),
)


class _Cifar(ImageDataModule):
    """Read once into memory. Validation images are split off the training set.

    Args:
        root: the folder of the archive; it is downloaded there if it is missing.
        mirrors: addresses of the archive, tried in order.
        **common: see `ImageDataModule`.
    """

    source: Source

    def __init__(self, *, root: str = "data", mirrors: Sequence[str] = (), **common: Any) -> None:
        super().__init__(**common)
        self.archive = Path(root).expanduser() / self.source.file
        self.mirrors = mirrors

    @property
    def classes(self) -> Sequence[str]:
        return self.source.classes

    @property
    def preprocessing(self) -> Preprocessing:
        mean, std = self.source.mean, self.source.std
        return Preprocessing(mean, std, (32, 32), self.test_scale, self.train_scale)

    def prepare_data(self) -> None:
        download(self.mirrors, self.archive, checksum=self.source.checksum, size=self.source.size)

    def load(self, split: str) -> TensorImages | None:
        if split == "val":
            return None
        members = self.source.train if split == "train" else self.source.test
        record = self.source.label_bytes + _PIXELS
        with open_tar(self.archive, max_bytes=_MAX_BYTES, max_members=_MAX_MEMBERS) as tar:
            data = b"".join(read_member(tar, name, str(self.archive)) for name in members)
        if not data or len(data) % record:
            raise InputError(f"{self.archive}: its {split} batches are no whole records")
        records = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, record)
        labels = records[:, self.source.label_bytes - 1].long()
        # A copy without the label bytes, so that an image is contiguous.
        images = records[:, self.source.label_bytes :].reshape(-1, 3, 32, 32).contiguous()
        return TensorImages(images, labels, self.classes, source=str(self.archive))


class CIFAR10(_Cifar):
    """60,000 colour images of 32x32 pixels in 10 classes; 10,000 of them are the test set."""

    source = CIFAR10_SOURCE


class CIFAR100(_Cifar):
    """60,000 colour images of 32x32 pixels in 100 classes; 10,000 of them are the test set."""

    source = CIFAR100_SOURCE
