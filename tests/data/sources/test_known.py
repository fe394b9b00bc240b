"""What is known of data sets without their files, against the sets themselves where they are."""

import pytest
import torch

from vgglab.data import (
    CIFAR10,
    Digits,
    ImageDataModule,
    ImageFolder,
    ImageNet,
    Imagenette,
    Synthetic,
)
from vgglab.data.sources.known import known_images
from vgglab.data.splitting import stratified_split


@pytest.mark.parametrize(
    "data",
    [Digits(), Digits(validation_fraction=0.17), Synthetic(train_size=33, num_classes=3)],
)
def test_as_many_as_there_are(data: ImageDataModule) -> None:
    data.setup("fit")
    known = known_images(data)
    assert known is not None
    assert known.count == len(data.sets["train"])
    assert known.classes == len(data.classes)
    assert known.mean_bytes == 0


def test_a_split_keeps_as_many_as_the_splitter() -> None:
    labels = torch.arange(50_000) % 10
    kept, _ = stratified_split(labels, 0.123, seed=0)
    known = known_images(CIFAR10(validation_fraction=0.123))
    assert known is not None
    assert known.count == len(kept)


def test_files_are_read_in_every_epoch() -> None:
    known, split = known_images(ImageNet()), known_images(ImageNet(validation="split"))
    assert known is not None
    assert split is not None
    assert (known.count, known.classes) == (1_281_167, 1000)
    assert split.count == 1_281_167 - 128_117
    assert known.mean_bytes == pytest.approx(115_440, abs=1)
    sizes = [known_images(Imagenette(size=size)) for size in ("160px", "320px", "full")]
    assert [size and round((size.mean_bytes or 0) / 1e3) for size in sizes] == [7, 26, 116]
    assert known_images(ImageFolder(root="nowhere")) is None
