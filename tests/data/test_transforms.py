from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional

from vgglab.data.cropping import CentreCropping, RandomCropping, RandomResizedCropping
from vgglab.data.transforms import Preprocessing, with_channels


def random_images(n, channels=3, height=8, width=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, height, width), generator=generator).to(torch.uint8)


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


@pytest.mark.parametrize(
    "shape", [(3, 40, 60), (1, 60, 40), (3, 8, 8), (1, 500, 9), (2, 3, 50, 41)]
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resize", [20, None])
def test_fit_is_torchvisions_resize_and_centre_crop(shape, channels, resize):
    preprocessing = Preprocessing((0.5,) * channels, (0.5,) * channels, (16, 16), resize)
    image = torch.randint(0, 256, shape).to(torch.uint8)
    resized = functional.resize(with_channels(image, channels), [resize or 16], antialias=True)
    assert torch.equal(preprocessing.fit(image), functional.center_crop(resized, [16, 16]))


@pytest.mark.parametrize("shape", [(3, 8, 20_000), (1, 20_000, 8)])
def test_fit_does_not_enlarge_what_it_cuts_off(shape):
    image = torch.arange(20_000).mul(255).div(20_000).to(torch.uint8)
    image = image.expand(shape) if shape[2] > 8 else image[:, None].expand(shape)
    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, (224, 224), 256)
    assert bool((preprocessing.fit(image) == 127).all())  # the middle; whole it would be 0.5 GB


def test_fit_takes_the_centre():
    image = torch.zeros(3, 4, 8, dtype=torch.uint8)
    image[:, :, 2:6] = 200
    fitted = Preprocessing((0.5,) * 3, (0.5,) * 3, (4, 4)).fit(image)
    assert bool((fitted == 200).all())


def test_croppings_take_their_sizes_from_the_preprocessing():
    plain = Preprocessing((0.5,) * 3, (0.5,) * 3, (16, 12), 24)
    assert plain.cropping("none") == CentreCropping((16, 12), 3, 24)
    assert plain.cropping("random_resized") == RandomResizedCropping((16, 12), 3)
    halves = plain.cropping("random_resized", (0.5, 1.0))
    assert halves == RandomResizedCropping((16, 12), 3, (0.5, 1.0))
    assert plain.cropping("random") == RandomCropping((16, 12), 3, (24, 24))
    jittered = replace(plain, train_scale=(20, 28))
    assert jittered.cropping("random") == RandomCropping((16, 12), 3, (20, 28))
    assert jittered.cropping("none") == CentreCropping((16, 12), 3, 24)
    unresized = Preprocessing((0.5,), (0.5,), (16, 12))
    assert unresized.cropping("random") == RandomCropping((16, 12), 1, (12, 12))
