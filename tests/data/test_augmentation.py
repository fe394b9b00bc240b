import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional

from vgglab.data.augmentation import (
    RESIZED_DRAWS,
    Augmentation,
    pad_crop_flip,
    rescale_crop_flip,
    resized_crop_flip,
)
from vgglab.data.colour import IMAGENET_COLOURS
from vgglab.data.sampling import uniforms
from vgglab.data.transforms import Preprocessing


def random_images(n, channels=3, height=8, width=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, height, width), generator=generator).to(torch.uint8)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 6),
    pad=st.integers(0, 5),
    flip=st.booleans(),
    seed=st.integers(0, 2**60),
    channels=st.sampled_from([1, 3]),
)
def test_pad_crop_flip_equals_torchvision_image_by_image(n, pad, flip, seed, channels):
    images = random_images(n, channels)
    numbers = uniforms(seed, 0, torch.arange(n), 3)
    result = pad_crop_flip(images, numbers, pad=pad, flip=flip)
    for image, (down, right, mirror), got in zip(images, numbers.tolist(), result, strict=True):
        padded = functional.pad(image, [pad])
        top, left = int(down * (2 * pad + 1)), int(right * (2 * pad + 1))
        expected = functional.crop(padded, top, left, *image.shape[1:])
        if flip and mirror < 0.5:
            expected = functional.horizontal_flip(expected)
        assert torch.equal(got, expected)


def test_pad_crop_flip_reaches_every_shift_and_both_sides():
    pixels = torch.arange(1, 82, dtype=torch.uint8).view(1, 1, 9, 9).expand(3000, -1, -1, -1)
    result = pad_crop_flip(pixels, uniforms(0, 0, torch.arange(3000), 3), pad=1, flip=True)
    assert len({bytes(image.flatten().tolist()) for image in result}) == 3 * 3 * 2
    largest = torch.full((3000, 3), 1 - 2**-24)
    assert pad_crop_flip(pixels, largest, pad=4, flip=True).shape == pixels.shape


def test_flips_alone_keep_the_memory_format():
    images = random_images(64).contiguous(memory_format=torch.channels_last)
    flipped = Augmentation(seed=0, num_classes=2, flip=True).crop_and_flip(
        images, 0, torch.arange(64)
    )
    assert flipped.is_contiguous(memory_format=torch.channels_last)
    padded = pad_crop_flip(images, uniforms(0, 0, torch.arange(64), 3), pad=0, flip=True)
    assert torch.equal(flipped, padded)


def test_half_of_the_images_are_mirrored():
    images = random_images(1).expand(2000, -1, -1, -1)
    changed = Augmentation(seed=0, num_classes=2, flip=True).crop_and_flip(
        images, 0, torch.arange(2000)
    )
    mirrored = (changed == images.flip(3)).flatten(1).all(1)
    same = (changed == images).flatten(1).all(1)
    assert bool((mirrored ^ same).all())
    assert 900 < int(mirrored.sum()) < 1100


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**60),
    epoch=st.integers(0, 300),
    change=st.sampled_from([{"pad": 3}, {"scale": (10, 14)}, {"area": (0.25, 1.0)}, {}]),
)
def test_an_image_is_augmented_alike_in_any_batch(seed, epoch, change):
    images, indices = random_images(6), torch.tensor([7, 0, 3, 99, 2, 1])
    augmentation = Augmentation(seed=seed, num_classes=2, flip=True, **change)
    whole = augmentation.crop_and_flip(images, epoch, indices)
    order = torch.tensor([5, 2, 0])
    part = augmentation.crop_and_flip(images[order], epoch, indices[order])
    assert torch.equal(part, whole[order])


def test_without_augmentation_images_stay_as_they_are():
    images = random_images(3)
    augmentation = Augmentation(seed=0, num_classes=2)
    assert augmentation.crop_and_flip(images, 0, torch.arange(3)) is images
    floats = images.float()
    labels = torch.tensor([0, 1, 1])
    assert augmentation.mix(floats, labels, 0) == (floats, labels)


@pytest.mark.parametrize("alpha", [{"mixup_alpha": 0.4}, {"cutmix_alpha": 1.0}])
def test_mixing_weighs_labels_and_is_fixed_by_its_key(alpha):
    images, labels = random_images(8).float(), torch.arange(8) % 4
    augmentation = Augmentation(seed=0, num_classes=4, **alpha)
    before = torch.get_rng_state()
    mixed, weights = augmentation.mix(images, labels, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert weights.shape == (8, 4)
    assert torch.allclose(weights.sum(1), torch.ones(8))
    again, _ = augmentation.mix(images, labels, 1)
    assert torch.equal(mixed, again)
    others = [augmentation.mix(images, labels, key)[0] for key in range(2, 6)]
    assert any(not torch.equal(mixed, other) for other in others)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 5),
    height=st.integers(5, 12),
    width=st.integers(5, 12),
    smallest=st.integers(12, 20),
    extra=st.integers(0, 12),
    flip=st.booleans(),
    seed=st.integers(0, 2**60),
)
def test_rescale_crop_flip_equals_torchvision_image_by_image(
    n, height, width, smallest, extra, flip, seed
):
    images = random_images(n, 3, height, width, seed % 1000)
    numbers = uniforms(seed, 0, torch.arange(n), 4)
    result = rescale_crop_flip(images, numbers, scale=(smallest, smallest + extra), flip=flip)
    assert result.dtype == torch.uint8
    for image, (scale, down, right, mirror), got in zip(
        images, numbers.tolist(), result, strict=True
    ):
        resized = functional.resize(image, [smallest + int(scale * (extra + 1))], antialias=False)
        top = int(down * (resized.shape[1] - height + 1))
        left = int(right * (resized.shape[2] - width + 1))
        expected = functional.crop(resized, top, left, height, width)
        if flip and mirror < 0.5:
            expected = functional.horizontal_flip(expected)
        assert (got.int() - expected.int()).abs().max() <= 1  # a grey level, of rounding


def test_rescale_reaches_every_scale_and_position():
    numbers = uniforms(0, 0, torch.arange(4000), 4)
    ramp = torch.arange(8, dtype=torch.uint8).mul(30).view(1, 1, 1, 8).expand(4000, 1, 8, 8)
    result = rescale_crop_flip(ramp, numbers, scale=(8, 10), flip=True)
    # S=8: one crop; S=9: two columns; S=10: three; each mirrored or not.
    assert len({bytes(image[0, 0].tolist()) for image in result}) == (1 + 2 + 3) * 2


def box_of(numbers, height, width, area):
    """`torchvision.transforms.RandomResizedCrop.get_params`, fed with these numbers."""
    *tries, down, right, _ = numbers
    for share, aspect in zip(tries[0::2], tries[1::2], strict=True):
        target = height * width * (area[0] + share * (area[1] - area[0]))
        ratio = math.exp(math.log(3 / 4) + aspect * (math.log(4 / 3) - math.log(3 / 4)))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w
    h = min(height, round(width / (3 / 4)))
    w = min(width, round(height * (4 / 3)))
    return (height - h) // 2, (width - w) // 2, h, w


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 5),
    height=st.integers(4, 14),
    width=st.integers(4, 14),
    area=st.tuples(st.floats(0.02, 1), st.floats(0.02, 1)).map(sorted),
    flip=st.booleans(),
    seed=st.integers(0, 2**60),
)
def test_resized_crop_flip_equals_torchvision_image_by_image(n, height, width, area, flip, seed):
    images = random_images(n, 3, height, width, seed % 1000)
    numbers = uniforms(seed, 0, torch.arange(n), RESIZED_DRAWS)
    result = resized_crop_flip(images, numbers, area=area, flip=flip)
    assert result.dtype == torch.uint8
    for image, drawn, got in zip(images, numbers.tolist(), result, strict=True):
        box = box_of(drawn, height, width, area)
        expected = functional.resized_crop(image, *box, [height, width], antialias=True)
        if flip and drawn[-1] < 0.5:
            expected = functional.horizontal_flip(expected)
        assert (got.int() - expected.int()).abs().max() <= 1  # a grey level, of rounding


def test_resized_crops_have_torchvisions_distribution():
    n, side, area = 2000, 32, (0.25, 1.0)
    # A ramp: the crop's slope tells the box's width, and its middle where the box is.
    ramp = torch.arange(side).mul(8).to(torch.uint8).expand(n, 1, side, side)
    numbers = uniforms(1, 0, torch.arange(n), RESIZED_DRAWS)
    crops = resized_crop_flip(ramp, numbers, area=area, flip=False)[:, 0, 16].double()
    torch.manual_seed(0)
    boxes = [RandomResizedCrop.get_params(ramp[0], list(area), [3 / 4, 4 / 3]) for _ in range(n)]
    expected = torch.stack(
        [functional.resized_crop(ramp[0], *box, [side, side])[0, 16] for box in boxes]
    ).double()
    for what in (lambda row: row[:, 24] - row[:, 8], lambda row: row[:, 16]):
        got, wanted = what(crops).sort().values, what(expected).sort().values
        levels = torch.arange(256, dtype=torch.double)
        apart = torch.searchsorted(got, levels) - torch.searchsorted(wanted, levels)
        assert float(apart.abs().max()) / n < 1.95 * math.sqrt(2 / n)  # Kolmogorov, p = 0.001


def test_a_box_that_never_fits_is_the_widest_in_the_middle():
    stripes = torch.arange(40).mul(6).to(torch.uint8).expand(50, 1, 4, 40)
    numbers = uniforms(0, 0, torch.arange(50), RESIZED_DRAWS)
    crops = resized_crop_flip(stripes, numbers, area=(1.0, 1.0), flip=False)
    assert bool((crops == crops[:1]).all())
    expected = functional.resized_crop(stripes[0], 0, 17, 4, 5, [4, 40])
    assert (crops[0].int() - expected.int()).abs().max() <= 1


def test_colour_shift_acts_on_pixels_not_on_their_scale():
    augmentation = Augmentation(
        seed=3, num_classes=2, colour_axes=IMAGENET_COLOURS, colour_deviation=0.1
    )
    preprocessing = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), (8, 10))
    images, indices = random_images(5), torch.arange(5)
    shifted = augmentation.shift_colours(
        preprocessing.normalize(images), preprocessing.std, 7, indices
    )
    shift = IMAGENET_COLOURS.shift(0.1, 3, 7, indices)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    torch.testing.assert_close(shifted * std + mean, images.float() / 255 + shift)
