from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional

from vgglab.data.augmentation import Augmentation, pad_crop_flip, rescale_crop_flip
from vgglab.data.colour import IMAGENET_COLOURS
from vgglab.data.cropping import train_crop
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


def test_the_result_is_channels_last():
    result = pad_crop_flip(random_images(4), torch.rand(4, 3), pad=2, flip=True)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_half_of_the_images_are_mirrored():
    images = random_images(1).expand(2000, -1, -1, -1)
    changed = Augmentation(seed=0, num_classes=2, flip=True).crop_and_flip(
        images, 0, torch.arange(2000)
    )
    mirrored = (changed == images.flip(3)).flatten(1).all(1)
    same = (changed == images).flatten(1).all(1)
    assert bool((mirrored ^ same).all())
    assert 900 < int(mirrored.sum()) < 1100


@settings(deadline=None)
@given(seed=st.integers(0, 2**60), epoch=st.integers(0, 300))
def test_an_image_is_augmented_alike_in_any_batch(seed, epoch):
    images, indices = random_images(6), torch.tensor([7, 0, 3, 99, 2, 1])
    augmentation = Augmentation(seed=seed, num_classes=2, pad=3, flip=True)
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


@settings(deadline=None)
@given(st.sampled_from([1, 3]), st.integers(0, 1000))
def test_denormalize_undoes_normalize(channels, seed):
    images = random_images(2, channels, seed=seed)
    preprocessing = Preprocessing((0.4,) * channels, (0.2,) * channels, (8, 10))
    assert torch.equal(preprocessing.denormalize(preprocessing.normalize(images)), images)


def test_normalize_centres_and_scales():
    preprocessing = Preprocessing((0.5, 0.0, 1.0), (0.25, 1.0, 0.5), (1, 1))
    white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    assert preprocessing.normalize(white).flatten().tolist() == [2.0, 1.0, 0.0]


def test_preprocessing_survives_a_checkpoint():
    preprocessing = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (224, 192), 256)
    plain = preprocessing.to_dict()
    assert all(isinstance(value, list | int | None) for value in plain.values())
    assert Preprocessing.from_dict(plain) == preprocessing
    jittered = replace(preprocessing, train_scale=(256, 512))
    assert Preprocessing.from_dict(jittered.to_dict()) == jittered
    del plain["train_scale"]  # as checkpoints were before it
    assert Preprocessing.from_dict(plain) == preprocessing


@pytest.mark.parametrize("shape", [(3, 40, 60), (1, 60, 40), (3, 8, 8), (1, 500, 9)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["none", "random", "random_resized"])
def test_any_image_becomes_network_input(shape, channels, kind):
    preprocessing = Preprocessing((0.5,) * channels, (0.5,) * channels, (16, 16), 20)
    image = torch.randint(0, 256, shape).to(torch.uint8)
    fitted = preprocessing.fit(image)
    assert fitted.shape == (channels, 16, 16)
    assert fitted.dtype == torch.uint8
    if shape[0] == channels:
        assert train_crop(kind, preprocessing)(image).shape == (channels, 16, 16)


def test_fit_takes_the_centre():
    image = torch.zeros(3, 4, 8, dtype=torch.uint8)
    image[:, :, 2:6] = 200
    fitted = Preprocessing((0.5,) * 3, (0.5,) * 3, (4, 4)).fit(image)
    assert bool((fitted == 200).all())


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


def test_the_papers_crop_draws_the_training_scale():
    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, (16, 16), 24, (20, 28))
    # A ramp of one grey level a pixel: its slope in the crop tells S.
    image = torch.arange(40, dtype=torch.uint8).expand(3, 40, 40).contiguous() * 6
    crop = train_crop("random", preprocessing)
    torch.manual_seed(0)
    slopes = torch.tensor([float(crop(image)[0, 8].float().diff().mean()) for _ in range(400)])
    scales = (6 * 40 / slopes).round().int()
    assert set(scales.tolist()) == set(range(20, 29))


@pytest.mark.parametrize("side", [9, 17, 55, 71])
def test_the_papers_crop_has_room_where_the_scale_is_the_crop(side):
    image = torch.zeros(3, side, side + 3, dtype=torch.uint8)
    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, (224, 224), 224, (224, 224))
    assert train_crop("random", preprocessing)(image).shape == (3, 224, 224)


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
