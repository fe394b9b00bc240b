"""Images of many sizes in batches of one shape."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from vgglab.data.images import FileImages, ImageSet, TensorImages
from vgglab.errors import InputError
from vgglab.evaluation.batching import ShapeBatch, shape_batches


class Pictures(ImageSet):
    """Images of given shapes, which counts what is decoded."""

    def __init__(self, shapes: Sequence[tuple[int, int, int]]) -> None:
        generator = torch.Generator().manual_seed(0)
        self.pixels = [
            torch.randint(256, shape, dtype=torch.uint8, generator=generator) for shape in shapes
        ]
        self.labels = torch.zeros(len(shapes), dtype=torch.int64)
        self.classes = ["all"]
        self.decoded: list[int] = []

    def image(self, index: int) -> Tensor:
        self.decoded.append(index)
        return self.pixels[index]

    def subset(self, indices: Tensor) -> ImageSet:
        raise AssertionError("nobody asks for a subset")


MIXED = [(3, 40, 30), (3, 30, 40), (3, 20, 20), (3, 24, 60)] * 5


def batches(
    images: ImageSet, scales: list[int], batch_size: int, workers: int = 0, channels: int = 3
) -> list[ShapeBatch]:
    found = shape_batches(
        images,
        scales,
        channels=channels,
        batch_size=batch_size,
        num_workers=workers,
        description="test",
    )
    return list(found)


def by_place(found: list[ShapeBatch]) -> dict[tuple[int, int], Tensor]:
    """Each image by its index and scale; fails where one comes twice."""
    places = {}
    for batch in found:
        assert batch.images.dtype == torch.uint8
        for index, image in zip(batch.indices.tolist(), batch.images, strict=True):
            assert (index, batch.scale) not in places
            places[index, batch.scale] = image
    return places


@pytest.mark.parametrize("workers", [0, 1])
def test_every_image_comes_once_a_scale_as_if_resized_alone(workers: int) -> None:
    images = Pictures(MIXED)
    found = by_place(batches(images, [16, 24, 50], 3, workers))
    assert len(found) == len(MIXED) * 3
    for (index, scale), image in found.items():
        alone = v2.Resize(scale, antialias=True)(images.pixels[index])
        assert torch.equal(image, alone)
        assert min(image.shape[1:]) == scale
    if not workers:
        assert sorted(images.decoded) == list(range(len(MIXED)))


def test_an_image_of_the_scales_side_is_left_untouched() -> None:
    images = Pictures([(3, 24, 61)])
    (batch,) = batches(images, [24], 8)
    assert torch.equal(batch.images[0], images.pixels[0])


def test_equal_shapes_fill_batches() -> None:
    # Five images each of four shapes. 4 squares of 20 pixels fill a batch; so do 3 of 26x20, which
    # come lying and standing, and one of 50x20.
    sizes = sorted(len(batch.indices) for batch in batches(Pictures(MIXED), [20], 4))
    assert sizes == sorted([4, 1] + 2 * [3, 2] + 5 * [1])


def test_larger_scales_come_in_smaller_batches() -> None:
    images = TensorImages(torch.zeros(64, 1, 8, 8, dtype=torch.uint8), torch.zeros(64).long(), "a")
    found = batches(images, [8, 16, 64], 16, channels=1)
    assert {(b.scale, len(b.indices)) for b in found} == {(8, 16), (16, 4), (64, 1)}


def test_what_waits_is_bounded() -> None:
    # 300 shapes, each its own: without a bound all would wait to the end.
    images = Pictures([(1, 10, 11 + i) for i in range(300)])
    delivered, waiting = 0, []
    for batch in shape_batches(images, [10], channels=1, batch_size=4, description="test"):
        delivered += len(batch.indices)
        waiting.append(len(images.decoded) - delivered)
    assert delivered == 300
    # 8 batches of 4 squares, and the 16 that a worker prepares at a time.
    assert max(waiting) <= 8 * 4 + 16


def test_the_fullest_batch_leaves_when_too_much_waits() -> None:
    common, rare = [(1, 10, 10)] * 7, [(1, 10, 11 + i) for i in range(30)]
    first = batches(Pictures(common + rare), [10], 8, channels=1)[0]
    assert first.indices.tolist() == list(range(7))


def test_grey_and_rgb_turn_into_each_other() -> None:
    images = Pictures([(1, 9, 9), (3, 9, 9)])
    (rgb,) = batches(images, [9], 2, channels=3)
    assert torch.equal(rgb.images[0], images.pixels[0].expand(3, -1, -1))
    assert torch.equal(rgb.images[1], images.pixels[1])
    (grey,) = batches(images, [9], 2, channels=1)
    assert torch.equal(grey.images[0], images.pixels[0])
    luma = np.array([0.299, 0.587, 0.114]) @ images.pixels[1].numpy().reshape(3, -1)  # ITU-R 601
    assert np.abs(grey.images[1].numpy().ravel() - luma).max() <= 1


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_one_line(workers: int, tmp_path: Path) -> None:
    Image.effect_noise((9, 9), 64).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    images = FileImages(tmp_path, ["good.png", "bad.png"], torch.zeros(2).long(), ["a"])
    with pytest.raises(InputError, match=r"bad\.png: not an image") as caught:
        batches(images, [9], 2, workers)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_can_be_skipped(workers: int, tmp_path: Path) -> None:
    names = [f"{number:02d}.png" for number in range(40)]
    good = [0, *range(33, 40)]  # of the second sixteen, which a worker takes at a time, none
    for number, name in enumerate(names):
        if number in good:
            Image.effect_noise((9, 9), 64).save(tmp_path / name)
        else:
            (tmp_path / name).write_bytes(b"no image")
    images = FileImages(tmp_path, names, torch.zeros(40).long(), ["a"])
    skipped: dict[int, str] = {}
    found = shape_batches(
        images,
        [9, 12],
        channels=1,
        batch_size=3,
        num_workers=workers,
        description="test",
        skipped=skipped,
    )
    assert sorted(by_place(list(found))) == [(i, scale) for i in good for scale in (9, 12)]
    assert sorted(skipped) == [i for i in range(40) if i not in good]
    assert skipped[7] == f"{tmp_path / '07.png'}: not an image"
