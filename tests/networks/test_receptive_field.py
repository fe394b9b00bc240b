import copy

import pytest
import torch
from torch import nn
from torchvision import models

from vgglab.networks import build_vgg, extract, receptive_field, to_dense

NAMES = ("vgg11", "vgg11_lrn", "vgg13", "vgg16_1x1", "vgg16", "vgg19", "vgg13_5x5")


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


def averaging(network):
    """The same geometry, where every path counts and nothing is cut off."""
    network = network.double().eval()
    for path, module in list(network.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            geometry = module.kernel_size, module.stride, module.padding, module.ceil_mode
            network.set_submodule(path, nn.AvgPool2d(*geometry))
        elif isinstance(module, nn.ReLU6):
            network.set_submodule(path, nn.ReLU())
        elif isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


TORCHVISION = {
    "alexnet": (lambda: models.AlexNet(num_classes=1), ["features.2", "features.12"]),
    "resnet18": (
        lambda: models.resnet18(num_classes=1),
        ["conv1", "maxpool", "layer2.0.downsample.0", "layer3.1.conv1", "layer4.1.conv2"],
    ),
    "googlenet": (
        lambda: models.GoogLeNet(1, aux_logits=False, init_weights=False),
        ["maxpool1", "inception3a.branch3.1.conv", "inception4b.branch1.conv", "maxpool4"],
    ),
    "mobilenet_v2": (
        lambda: models.MobileNetV2(num_classes=1, width_mult=0.1),
        ["features.3.conv.1.0", "features.17.conv.2", "features.18.0"],
    ),
    "densenet121": (
        lambda: models.DenseNet(2, (6, 12, 24, 16), 2, bn_size=1, num_classes=1),
        ["features.pool0", "features.transition2.pool", "features.denseblock4.denselayer16.conv2"],
    ),
    "squeezenet1_1": (lambda: models.squeezenet1_1(num_classes=1), ["classifier.1"]),
    "shufflenet_v2": (lambda: models.shufflenet_v2_x0_5(num_classes=1), ["conv5.0"]),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_branched_fields_are_the_support_of_the_gradient(name):
    make, layers = TORCHVISION[name]
    network = averaging(make())
    rows = {row.name: row for row in receptive_field(network)}
    largest = max(rows[layer].size for layer in layers)
    # Narrow, to be fast: the width has its own test.
    height = largest + 4 * rows[layers[-1]].jump
    images = torch.ones(1, 3, height, 65, dtype=torch.float64, requires_grad=True)
    outputs = {}
    for layer in layers:

        def keep(module, inputs, output, layer=layer):
            outputs[layer] = output
            return output.clone()  # for an in-place ReLU to overwrite

        network.get_submodule(layer).register_forward_hook(keep)
    network(images)
    for layer in layers:
        middle = outputs[layer].shape[2] // 2
        (gradient,) = torch.autograd.grad(
            outputs[layer][0, :, middle].sum(), images, retain_graph=True
        )
        seen = gradient[0, 0].any(1).nonzero().flatten()
        row = rows[layer]
        centre = row.start + middle * row.jump
        edges = (centre - row.size / 2, centre + row.size / 2)
        assert 0 <= edges[0] < edges[1] <= height, "the image must hold the whole field"
        assert (int(seen[0]), int(seen[-1]) + 1) == edges, row


# Araujo et al. 2019, distill.pub/2019/computing-receptive-fields, table 1, where torchvision's
# geometry is theirs: the last layer before the global pool.
@pytest.mark.parametrize(
    ("name", "size"), [("alexnet", 195), ("vgg16", 212), ("densenet121", 2071)]
)
def test_published_sizes(name, size):
    with torch.device("meta"):
        network = getattr(models, name)()
    assert max(row.size for row in receptive_field(network)) == size


def test_ours_and_torchvisions_vgg16_agree():
    with torch.device("meta"):
        theirs, ours = models.vgg16_bn(), build_vgg("vgg16", batch_norm=True)
    assert [row[1:] for row in receptive_field(theirs)] == [
        row[1:] for row in receptive_field(ours)
    ]


def test_kernels_that_are_not_square_differ_by_axis():
    network = nn.Sequential(
        nn.Conv2d(3, 1, (1, 7), stride=(1, 2), padding=(0, 3)),
        nn.Conv2d(1, 1, (5, 1), padding="same", dilation=(2, 1)),
        nn.AvgPool2d((1, 3)),
    )
    assert [row[1:] for row in receptive_field(network)] == [(1, 1, 0.5), (9, 1, 0.5), (9, 1, 0.5)]
    wide = [row[1:] for row in receptive_field(network, "width")]
    assert wide == [(7, 2, 0.5), (7, 2, 0.5), (11, 6, 2.5)]
    with torch.device("meta"):
        inception = models.inception_v3(init_weights=False)
    rows = {row.name: row for row in receptive_field(inception)}
    across = {row.name: row for row in receptive_field(inception, "width")}
    name = "Mixed_6b.branch7x7_2.conv"  # a 1x7, on maps 16 pixels apart
    assert across[name].size - rows[name].size == 6 * 16
    assert rows["Mixed_7c.branch_pool.conv"] == across["Mixed_7c.branch_pool.conv"]


class Joined(nn.Module):
    def __init__(self, *branches, join=lambda maps: torch.cat(maps, 1)):
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.join = join
        self.last = nn.Conv2d(1, 1, 1)

    def forward(self, images):
        return self.last(self.join([branch(images) for branch in self.branches]))


def test_branches_join_to_the_interval_that_holds_both():
    shifted = nn.Conv2d(3, 1, 3, padding=0)  # sees pixels 0 to 3, the other -1 to 2
    rows = receptive_field(Joined(shifted, nn.Conv2d(3, 1, 3, padding=1)))
    assert rows[-1] == ("last", 4, 1, 1.0)
    added = Joined(
        nn.Conv2d(3, 1, 5, padding=2), nn.Identity(), join=lambda maps: maps[0] + maps[1]
    )
    assert receptive_field(added)[-1] == ("last", 5, 1, 0.5)


def test_what_is_not_known_is_refused_by_name():
    other = nn.Conv2d(3, 1, 1), nn.Conv2d(3, 1, 3, stride=2, padding=1)
    with pytest.raises(ValueError, match=r"cat joins maps whose outputs are \[1, 2\] pixels apart"):
        receptive_field(Joined(*other))
    same = nn.Conv2d(3, 1, 1), nn.Conv2d(3, 1, 1)
    with pytest.raises(ValueError, match="cat: which positions cat mixes"):
        receptive_field(Joined(*same, join=lambda maps: torch.cat(maps, 2)))
    with pytest.raises(ValueError, match="transpose mixes"):
        receptive_field(Joined(*same, join=lambda maps: maps[0].transpose(2, 3)))
    with pytest.raises(ValueError, match="ConvTranspose2d mixes"):
        receptive_field(nn.Sequential(nn.ConvTranspose2d(3, 1, 2, 2)))
    with pytest.raises(ValueError, match=r"features\.0\.1\.permute"), torch.device("meta"):
        receptive_field(models.convnext_tiny())

    class Deciding(nn.Module):
        def forward(self, images):
            return images if images.sum() > 0 else -images

    with pytest.raises(ValueError, match="cannot trace Deciding"):
        receptive_field(Deciding())


def test_rows_end_where_the_whole_image_is_seen():
    with torch.device("meta"):
        network = models.mobilenet_v3_large().train()
    rows = receptive_field(network)
    assert rows[-1].name == "features.4.block.1.0"  # before the first squeeze and excitation
    assert all(module.training for module in network.modules())
