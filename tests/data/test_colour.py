import json

import numpy as np
import pytest
import torch

from vgglab.data.colour import (
    IMAGENET_COLOURS,
    colour_axes_of,
    read_colour_axes,
    write_colour_axes,
)
from vgglab.data.images import TensorImages
from vgglab.errors import InputError


def coloured_images(n=30, channels=3):
    generator = torch.Generator().manual_seed(0)
    mixing = torch.rand(channels, channels, generator=generator)
    noise = torch.rand(n, 6, 7, channels, generator=generator) @ mixing / channels
    return TensorImages(
        (noise * 255).to(torch.uint8).permute(0, 3, 1, 2), torch.zeros(n).long(), ["one"]
    )


def test_the_axes_are_numpys_principal_components():
    images = coloured_images()
    axes = colour_axes_of(images)
    pixels = images.images.permute(0, 2, 3, 1).reshape(-1, 3).numpy() / 255
    covariance = np.cov(pixels.T, bias=True)
    vectors = np.array(axes.eigenvectors)
    np.testing.assert_allclose(vectors @ np.diag(axes.eigenvalues) @ vectors.T, covariance)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-12)
    assert list(axes.eigenvalues) == sorted(axes.eigenvalues, reverse=True)


def test_a_sample_of_the_images_is_enough_and_seeded():
    images = coloured_images()
    first, again = (colour_axes_of(images, limit=10, seed=1) for _ in range(2))
    assert first == again
    assert first != colour_axes_of(images, limit=10, seed=2)


def test_grey_images_have_no_colours():
    with pytest.raises(InputError, match="RGB"):
        colour_axes_of(coloured_images(channels=1))


def test_imagenets_axes_are_an_orthonormal_basis():
    vectors = torch.tensor(IMAGENET_COLOURS.eigenvectors)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(3), atol=1e-3, rtol=0)


def test_the_shift_has_the_covariance_that_the_axes_say():
    shift = IMAGENET_COLOURS.shift(0.1, 0, 0, torch.arange(200_000)).squeeze()
    vectors = torch.tensor(IMAGENET_COLOURS.eigenvectors)
    along = (shift @ vectors).std(0)
    expected = 0.1 * torch.tensor(IMAGENET_COLOURS.eigenvalues)
    torch.testing.assert_close(along, expected, rtol=0.01, atol=2e-5)
    assert abs(float(shift.mean())) < 1e-3
    assert bool(shift.isfinite().all())


def test_the_shift_belongs_to_the_image_and_the_epoch():
    shift = IMAGENET_COLOURS.shift(0.1, 5, 2, torch.arange(6))
    order = torch.tensor([4, 1])
    assert torch.equal(IMAGENET_COLOURS.shift(0.1, 5, 2, order), shift[order])
    assert not torch.equal(IMAGENET_COLOURS.shift(0.1, 5, 3, order), shift[order])


def test_axes_survive_a_file(tmp_path):
    axes = colour_axes_of(coloured_images())
    path = tmp_path / "deep/axes.json"
    write_colour_axes(axes, path)
    assert read_colour_axes(str(path)) == axes
    assert [p.name for p in path.parent.iterdir()] == ["axes.json"]
    assert read_colour_axes("imagenet") is IMAGENET_COLOURS


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"eigenvalues": [1], "eigenvectors": [2]}'])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "axes.json"
    with pytest.raises(InputError, match=r"no such file; scripts/colour_axes\.py writes it"):
        read_colour_axes(str(path))
    path.write_text(content)
    with pytest.raises(InputError, match="not a file of colour axes"):
        read_colour_axes(str(path))
    path.write_text(json.dumps({"eigenvalues": ["x"] * 3, "eigenvectors": None}))
    with pytest.raises(InputError, match="not a file of colour axes"):
        read_colour_axes(str(path))
