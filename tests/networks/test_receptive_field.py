import copy

import pytest
import torch
from torch import nn

from vgglab.networks import build_vgg, extract, receptive_field, to_dense

NAMES = ("vgg11", "vgg11_lrn", "vgg13", "vgg16_1x1", "vgg16", "vgg19")


def test_vgg16_has_the_known_fields():
    rows = {row.name: row for row in receptive_field(build_vgg("vgg16", width=0.01))}
    known = {
        "conv1_1": 3,
        "conv1_2": 5,
        "pool1": 6,
        "conv2_2": 14,
        "pool2": 16,
        "conv3_3": 40,
        "pool3": 44,
        "conv4_3": 92,
        "pool4": 100,
        "conv5_3": 196,
        "pool5": 212,
    }
    assert {name: rows[name].size for name in known} == known
    assert (rows["conv5_3"].jump, rows["pool5"].jump) == (16, 32)
    # Convolutions are centred on their pixel; a pool on the corner of four.
    assert (rows["conv1_1"].start, rows["pool1"].start, rows["pool5"].start) == (0.5, 1.0, 16.0)
    expected = """
        conv1_1 conv1_2 pool1 conv2_1 conv2_2 pool2 conv3_1 conv3_2 conv3_3 pool3
        conv4_1 conv4_2 conv4_3 pool4 conv5_1 conv5_2 conv5_3 pool5
    """
    assert [row.name for row in receptive_field(build_vgg("vgg16", width=0.01))] == expected.split()


def linear_copy(network):
    """The same geometry, but every path counts: a maximum has a gradient at one input alone."""
    network = copy.deepcopy(network).double().eval()
    for index, module in enumerate(network.features):
        if isinstance(module, nn.MaxPool2d):
            network.features[index] = AveragedMaxPool(module)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    return network


class AveragedMaxPool(nn.MaxPool2d):
    """Keeps its name in the paper's terms."""

    def __init__(self, pool):
        super().__init__(pool.kernel_size, pool.stride)

    def forward(self, maps):
        return nn.functional.avg_pool2d(maps, self.kernel_size, self.stride)


def support(output, images):
    """First and one past the last row and column of the image that the middle output depends on."""
    middle = output.shape[-2] // 2, output.shape[-1] // 2
    (gradient,) = torch.autograd.grad(output[0, 0][middle], images, retain_graph=True)
    seen = [gradient[0, 0].any(dim).nonzero().flatten() for dim in (1, 0)]
    return middle, [(int(axis[0]), int(axis[-1]) + 1) for axis in seen]


@pytest.mark.parametrize(
    ("name", "max_pools"), [*((name, None) for name in NAMES), ("vgg16", 3), ("vgg11_lrn", 0)]
)
def test_fields_are_the_support_of_the_gradient(name, max_pools):
    network = linear_copy(build_vgg(name, width=0.001, in_channels=1, max_pools=max_pools))
    rows = receptive_field(network)
    images = torch.ones(1, 1, 288, 320, dtype=torch.float64, requires_grad=True)
    outputs = extract(network, images, [row.name for row in rows])
    for row in rows:
        middle, edges = support(outputs[row.name], images)
        for index, (low, high) in zip(middle, edges, strict=True):
            centre = row.start + index * row.jump
            assert (low, high) == (centre - row.size / 2, centre + row.size / 2), row


def test_dense_form_continues_with_its_dense_layers():
    rows = {row.name: row for row in receptive_field(to_dense(build_vgg("vgg16", width=0.01)))}
    # 212 + (7 - 1) x 32 pixels, in the middle of a 224 image at first
    assert rows["fc6"][1:] == rows["fc7"][1:] == rows["fc8"][1:] == (404, 32, 112.0)


def test_changed_geometry_is_followed():
    network = build_vgg("vgg11", width=0.01)
    network.features[0] = nn.Conv2d(3, 1, 3, stride=2, padding=2, dilation=2)
    first, pool = receptive_field(network)[:2]
    assert first[1:] == (5, 2, 0.5)
    assert pool[1:] == (7, 4, 1.5)
