import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from vgglab.data.cropping import (
    CentreCropping,
    Cut,
    RandomCropping,
    RandomResizedCropping,
    resized_size,
)
from vgglab.data.resampling import cut_out
from vgglab.data.sampling import uniforms

SIDES = st.integers(1, 600)


def pixels(height, width, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, height, width), generator=generator).to(torch.uint8)


def numbers_of(seed, draws):
    return uniforms(seed, 0, torch.tensor([0]), draws)[0].tolist()


def torchvisions_box(monkeypatch, height, width, numbers, area):
    """What `RandomResizedCrop` makes of the same numbers, asked for in its own order."""
    tries, positions = iter(numbers[:20]), iter(numbers[20:])

    def uniform_(tensor, low, high):
        return tensor.fill_(low + next(tries) * (high - low))

    def randint(low, high=None, size=()):
        high, low = (low, 0) if high is None else (high, low)
        return torch.tensor([low + int(next(positions) * (high - low))])

    crop = v2.RandomResizedCrop(224, scale=area)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "uniform_", uniform_)
        patch.setattr(torch, "randint", randint)
        return crop.make_params([torch.empty(3, height, width)])


@pytest.mark.parametrize("area", [(0.08, 1.0), (0.3, 0.6)])
@pytest.mark.parametrize("size", [(375, 500), (500, 333), (40, 1000), (1000, 40), (3, 2), (1, 1)])
def test_the_resized_box_is_torchvisions(monkeypatch, size, area):
    cropping = RandomResizedCropping((224, 224), 3, area)
    for seed in range(60):
        numbers = numbers_of(seed, cropping.draws)
        cut = cropping.cut(*size, numbers)
        box = torchvisions_box(monkeypatch, *size, numbers, area)
        assert cut[:4] == (box["top"], box["left"], box["height"], box["width"])
        assert cut[4:] == (224, 224, 0, 0, 224, 224)


def test_the_resized_boxes_are_distributed_as_torchvisions():
    cropping = RandomResizedCropping((224, 224), 3)
    numbers = uniforms(7, 0, torch.arange(3000), cropping.draws).tolist()
    ours = torch.tensor([cropping.cut(375, 500, row)[:4] for row in numbers]).float()
    torch.manual_seed(0)
    crop, image = v2.RandomResizedCrop(224), torch.empty(3, 375, 500)
    drawn = [crop.make_params([image]) for _ in range(3000)]
    keys = ("top", "left", "height", "width")
    theirs = torch.tensor([[float(box[key]) for key in keys] for box in drawn])
    ranks = torch.tensor([0.1, 0.5, 0.9])
    difference = ours.quantile(ranks, dim=0) - theirs.quantile(ranks, dim=0)
    assert difference.abs().max() < 20  # pixels: some three deviations of a quantile's difference


@settings(max_examples=60, deadline=None)
@given(height=SIDES, width=SIDES, shortest=st.integers(8, 64))
def test_the_centre_is_torchvisions(height, width, shortest):
    if max(height, width) > 40 * min(height, width):
        return
    image = pixels(height, width)
    for size in ((8, 8), (shortest, shortest), (shortest, 2 * shortest), (70, 9)):
        cut = CentreCropping(size, 3, shortest).cut(height, width)
        resized = functional.resize(image, [shortest], antialias=True)
        assert resized.shape[1:] == (cut.resized_height, cut.resized_width)
        assert torch.equal(cut_out(image, cut), functional.center_crop(resized, list(size)))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(4, 200),
    width=st.integers(4, 200),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**60),
)
def test_random_cuts_are_torchvisions_pixel_by_pixel(height, width, channels, seed):
    image = pixels(height, width, channels, seed % 100)
    cropping = RandomResizedCropping((24, 20), channels)
    cut = cropping.cut(height, width, numbers_of(seed, cropping.draws))
    top, left, box_height, box_width = (int(side) for side in cut[:4])
    expected = functional.resized_crop(
        image, top, left, box_height, box_width, [24, 20], antialias=True
    )
    assert torch.equal(cut_out(image, cut), expected)

    paper = RandomCropping((20, 20), channels, (20, 40))
    cut = paper.cut(height, width, numbers_of(seed, paper.draws))
    scale = min(cut.resized_height, cut.resized_width)
    resized = functional.resize(image, [scale], antialias=True)
    assert 20 <= scale <= 40
    assert torch.equal(
        cut_out(image, cut), functional.crop(resized, cut.crop_top, cut.crop_left, 20, 20)
    )


def test_several_images_of_one_size_are_cut_together():
    images = torch.stack([pixels(30, 40, seed=i) for i in range(6)]).view(2, 3, 3, 30, 40)
    cut = CentreCropping((16, 16), 3, 20).cut(30, 40)
    together = cut_out(images, cut)
    assert together.shape == (2, 3, 3, 16, 16)
    assert torch.equal(together[1, 2], cut_out(images[1, 2], cut))


def test_the_papers_crop_reaches_every_scale_and_position():
    cropping = RandomCropping((16, 16), 3, (16, 18))
    numbers = uniforms(0, 0, torch.arange(4000), cropping.draws).tolist()
    cuts = {cropping.cut(40, 40, row)[4:8] for row in numbers}
    expected = {
        (scale, scale, top, left)
        for scale in (16, 17, 18)
        for top in range(scale - 15)
        for left in range(scale - 15)
    }
    assert cuts == expected


@pytest.mark.parametrize("height", [8, 300])
@pytest.mark.parametrize("width", [20_000, 19_999])
def test_an_enormous_image_is_resized_where_it_is_cut(height, width):
    """Only what the crop covers: as Pillow does it, whose box may lie between pixels."""
    image = pixels(height, width)
    for cropping in (CentreCropping((16, 16), 3, 2000), RandomCropping((16, 16), 3, (2000, 2000))):
        cut = cropping.cut(height, width, [0.5] * cropping.draws)
        assert cut.resized_height * cut.resized_width > 1 << 24
        scale = height / cut.resized_height, width / cut.resized_width
        left, top = cut.crop_left * scale[1], cut.crop_top * scale[0]
        box = (left, top, left + 16 * scale[1], top + 16 * scale[0])
        whole = Image.fromarray(image.permute(1, 2, 0).numpy())
        expected = whole.resize((16, 16), Image.Resampling.BILINEAR, box=box)
        assert torch.equal(cut_out(image, cut), functional.pil_to_tensor(expected))


@settings(max_examples=40, deadline=None)
@given(
    top=st.integers(0, 20),
    left=st.integers(0, 20),
    height=st.integers(32, 60),
    width=st.integers(32, 60),
    factor=st.sampled_from([2, 4]),
)
def test_a_region_between_pixels_is_not_rounded(top, left, height, width, factor):
    """Of a ramp, each pixel of the cut tells where in the image it was taken."""
    ramp = torch.arange(80).mul(2).to(torch.uint8)
    across = ramp.expand(80, 80)
    image = torch.stack([across, across.T, 160 - across])
    reduced = torch.nn.functional.avg_pool2d(image.float(), factor).to(torch.uint8)
    cut = Cut(top, left, height, width, 8, 8, 0, 0, 8, 8)
    got = cut_out(reduced, cut.of_reduced(factor)).float()
    expected = cut_out(image, cut).float()
    # Not the outermost pixels: the region's edge lies inside of a reduced pixel.
    assert (got - expected)[:, 1:-1, 1:-1].abs().max() <= 1  # rounding to half a pixel costs 2


def test_an_image_is_reduced_only_as_far_as_it_is_not_enlarged_again():
    for region, factor in (((447, 448), 1), ((448, 448), 2), ((900, 895), 2), ((3000, 1792), 8)):
        cut = Cut(0, 0, *region, 224, 224, 0, 0, 224, 224)
        assert cut.reduction == factor
        assert cut.of_reduced(1) == cut


@given(height=st.integers(1, 5000), width=st.integers(1, 5000), shortest=st.integers(1, 600))
def test_the_resized_size_keeps_the_aspect_ratio(height, width, shortest):
    resized = resized_size(height, width, shortest)
    assert min(resized) == shortest
    longer = shortest * max(height, width) / min(height, width)
    assert max(resized) == math.floor(longer)
