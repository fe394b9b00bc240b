import math

import pytest
import torch
from torch import nn

from vgglab.networks import build_vgg, effective_receptive_field, extract, receptive_field
from vgglab.networks.effective_field import central_box, fitted_sigma


def gaussian(sigma, side, centre):
    positions = torch.arange(side) + 0.5
    profile = torch.exp(-((positions - centre) ** 2) / (2 * sigma**2))
    return profile[:, None] * profile


@pytest.mark.parametrize(("sigma", "side", "centre"), [(2, 30, 15), (7.5, 64, 30), (20, 32, 17)])
def test_a_gaussian_has_its_sigma_also_where_the_image_cuts_it_off(sigma, side, centre):
    assert fitted_sigma(gaussian(sigma, side, centre)) == pytest.approx(sigma, rel=1e-3)


def averages(depth):
    network = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(depth)))
    for convolution in network:
        nn.init.constant_(convolution.weight, 1 / 9)
    return network


def test_the_sigma_of_equal_weights_is_that_of_the_theory():
    # Luo et al. 2016, section 2: the sum of n independent uniform steps in {-1, 0, 1}, whose
    # variance is 2 / 3 each.
    field = effective_receptive_field(averages(30), torch.rand(1, 1, 81, 81), "29")
    assert field.sigma == pytest.approx(math.sqrt(30 * 2 / 3), rel=0.01)
    # 4.55 % of the middle is 2.486 sigma away: a circle of pi 2.486^2 sigma^2 pixels.
    assert field.size**2 == pytest.approx(math.pi * 2.486**2 * 20, rel=0.02)
    assert field.share == pytest.approx(field.size**2 / 61**2)
    assert field.box == (10, 10, 71, 71)


def test_one_convolution_uses_all_it_sees():
    field = effective_receptive_field(averages(1), torch.rand(2, 1, 9, 8), "0")
    assert (field.size, field.share, field.box) == (3, 1, (3, 3, 6, 6))
    expected = torch.zeros(9, 8)
    expected[3:6, 3:6] = 1 / 9
    torch.testing.assert_close(field.map, expected)


def test_the_map_is_the_mean_absolute_gradient_of_the_central_unit():
    torch.manual_seed(0)
    network = build_vgg("vgg11", width=0.1, batch_norm=True).eval()
    images = torch.randn(9, 3, 64, 96)  # more than go through at once
    with torch.no_grad():  # as a caller may well have it
        field = effective_receptive_field(network, images, "conv3_2")
    expected = torch.zeros(64, 96)
    for image in images:
        image = image[None].requires_grad_()
        maps = extract(network, image, ["conv3_2"])["conv3_2"]
        (gradient,) = torch.autograd.grad(maps[0, :, 8, 12].sum(), image)
        expected += gradient[0].abs().sum(0) / (9 * 3)
    torch.testing.assert_close(field.map, expected, rtol=1e-4, atol=1e-8)
    assert all(parameter.grad is None for parameter in network.parameters())
    row = next(row for row in receptive_field(network) if row.name == "conv3_2")
    top, left, bottom, right = (int(edge) for edge in field.box)
    assert (bottom - top, right - left) == (row.size, row.size)
    assert field.box == central_box(network, images, "conv3_2")
    assert field.map[top:bottom, left:right].sum() == pytest.approx(float(field.map.sum()))
    assert field.map[top, left:right].any()
    assert field.map[top:bottom, right - 1].any()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.relu = nn.ReLU(inplace=True)  # overwrites what conv1 gave
        self.conv2 = nn.Conv2d(4, 4, 5, padding=2)

    def forward(self, images):
        maps = self.relu(self.conv1(images))
        return maps + self.conv2(maps)


def test_other_networks_answer_to_their_modules_names():
    torch.manual_seed(0)
    network, image = Residual(), torch.randn(1, 3, 40, 40, requires_grad=True)
    (gradient,) = torch.autograd.grad(network.conv1(image)[0, :, 10, 10].sum(), image)
    field = effective_receptive_field(network, image, "conv1")
    torch.testing.assert_close(field.map, gradient[0].abs().mean(0))
    assert effective_receptive_field(network, image, "conv2").box == (15, 15, 26, 26)
    with pytest.raises(ValueError, match=r"'conv3' has no receptive field.*did you mean conv\d"):
        effective_receptive_field(network, image, "conv3")


def test_what_has_no_field_is_refused():
    network = build_vgg("vgg11", width=0.2)
    with pytest.raises(ValueError, match="'relu1_1' has no receptive field"):
        effective_receptive_field(network, torch.rand(1, 3, 32, 32), "relu1_1")
    dead = averages(1)
    nn.init.zeros_(dead[0].weight)
    with pytest.raises(ValueError, match="does not depend on these images"):
        effective_receptive_field(dead, torch.zeros(1, 1, 9, 9), "0")
