import itertools
import math
import typing

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.nn import functional as F

from vgglab.networks import VGG, build_vgg
from vgglab.networks.vgg import CONFIGURATIONS, Name

NAMES = ("vgg11", "vgg11_lrn", "vgg13", "vgg16_1x1", "vgg16", "vgg19", "vgg13_5x5")
LETTERS = ("A", "A-LRN", "B", "C", "D", "E", "B-5x5")

# Table 1 of the paper once more, by hand: (channels, kernel) of each convolution, a stage a line.
TABLE = {
    "vgg11": [
        [(64, 3)],
        [(128, 3)],
        [(256, 3)] * 2,
        [(512, 3)] * 2,
        [(512, 3)] * 2,
    ],
    "vgg13": [[(c, 3)] * 2 for c in (64, 128, 256, 512, 512)],
    "vgg16_1x1": [
        [(64, 3)] * 2,
        [(128, 3)] * 2,
        [(256, 3), (256, 3), (256, 1)],
        [(512, 3), (512, 3), (512, 1)],
        [(512, 3), (512, 3), (512, 1)],
    ],
    "vgg16": [[(64, 3)] * 2, [(128, 3)] * 2, [(256, 3)] * 3, [(512, 3)] * 3, [(512, 3)] * 3],
    "vgg19": [[(64, 3)] * 2, [(128, 3)] * 2, [(256, 3)] * 4, [(512, 3)] * 4, [(512, 3)] * 4],
}
TABLE["vgg11_lrn"] = TABLE["vgg11"]
# Section 4.1: each pair of 3x3 replaced by one 5x5.
TABLE["vgg13_5x5"] = [[(channels, 5)] for channels, _ in (stage[0] for stage in TABLE["vgg13"])]


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "batch_norm", "parameters"),
    [
        ("A", False, 132_863_336),
        ("A-LRN", False, 132_863_336),
        ("B", False, 133_047_848),
        ("C", False, 133_638_952),
        ("D", False, 138_357_544),
        ("E", False, 143_667_240),
        # 25 C C' in place of 9 C C' + 9 C' C', and a layer of biases fewer, in each stage of B
        ("B-5x5", False, 134_503_528),
        ("A", True, 132_868_840),
        ("A-LRN", True, 132_868_840),
        ("B", True, 133_053_736),
        ("C", True, 133_647_400),  # 133,638,952 + 2 x 4,224 channels; torchvision has no C
        ("D", True, 138_365_992),
        ("E", True, 143_678_248),
    ],
)
def test_parameter_counts_are_those_of_the_paper_and_torchvision(name, batch_norm, parameters):
    with torch.device("meta"):
        assert count(build_vgg(name, batch_norm=batch_norm)) == parameters


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(NAMES),
    batch_norm=st.booleans(),
    head=st.sampled_from(["imagenet", "compact"]),
    width=st.floats(0.001, 2),
    num_classes=st.integers(1, 50),
    in_channels=st.integers(1, 6),
)
def test_parameter_count_follows_from_the_table(
    name, batch_norm, head, width, num_classes, in_channels
):
    def scaled(channels):
        return max(1, round(channels * width))

    expected, before = 0, in_channels
    for channels, kernel in itertools.chain(*TABLE[name]):
        expected += scaled(channels) * (before * kernel**2 + 1 + 2 * batch_norm)
        before = scaled(channels)
    if head == "imagenet":
        hidden = scaled(4096)
        expected += (before * 49 + 1) * hidden + (hidden + 1) * hidden
        before = hidden
    expected += (before + 1) * num_classes
    with torch.device("meta"):
        network = build_vgg(
            name,
            batch_norm=batch_norm,
            head=head,
            width=width,
            num_classes=num_classes,
            in_channels=in_channels,
        )
    assert count(network) == expected


@settings(deadline=None, max_examples=25)
@given(
    name=st.sampled_from(NAMES),
    batch_norm=st.booleans(),
    head=st.sampled_from(["imagenet", "compact"]),
    width=st.floats(0.001, 0.1),
    num_classes=st.integers(1, 20),
    in_channels=st.integers(1, 4),
    max_pools=st.integers(0, 5),
    extra=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_any_image_from_the_smallest_up_gives_finite_logits(
    name, batch_norm, head, width, num_classes, in_channels, max_pools, extra
):
    network = build_vgg(
        name,
        batch_norm=batch_norm,
        head=head,
        width=width,
        num_classes=num_classes,
        in_channels=in_channels,
        max_pools=max_pools,
    ).eval()
    assert network.smallest_image == 2**max_pools
    height, across = (network.smallest_image + more for more in extra)
    logits = network(torch.randn(2, in_channels, height, across))
    assert logits.shape == (2, num_classes)
    assert logits.isfinite().all()


def test_too_small_an_image_is_refused_with_the_smallest_size():
    with pytest.raises(ValueError, match=r"40x31 pixels .* smallest side is 32"):
        build_vgg("vgg11", width=0.01)(torch.zeros(1, 3, 40, 31))
    with pytest.raises(ValueError, match="smallest side is 4"):
        build_vgg("vgg11", width=0.01, max_pools=2)(torch.zeros(1, 3, 3, 8))


def test_letters_are_the_columns_of_the_table():
    for name, letter in zip(NAMES, LETTERS, strict=True):
        network = build_vgg(letter, width=0.01)
        assert (network.name, network.column) == (name, letter)
        same = build_vgg(name, width=0.01)
        assert {k: v.shape for k, v in network.state_dict().items()} == {
            k: v.shape for k, v in same.state_dict().items()
        }


def test_the_type_of_names_is_the_table():
    letters = [column.letter for column in CONFIGURATIONS.values()]
    assert list(typing.get_args(Name)) == [*CONFIGURATIONS, *letters]


def test_unknown_words_are_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"vgg61.*vgg11, vgg11_lrn, .*A, A-LRN, B, C, D, E"):
        build_vgg("vgg61")
    with pytest.raises(ValueError, match="imagenet, compact"):
        build_vgg("A", head="big", width=0.01)
    with pytest.raises(ValueError, match="kaiming, paper, glorot"):
        build_vgg("A", init="zeros", width=0.01)


BAD_NUMBERS = [
    {"num_classes": 0},
    {"in_channels": 0},
    {"width": 0.0},
    {"width": -1.0},
    {"dropout": 1.0},
    {"dropout": -0.1},
    {"max_pools": 6},
    {"max_pools": -1},
]


@pytest.mark.parametrize("bad", BAD_NUMBERS, ids=str)
def test_numbers_out_of_range_are_refused(bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        build_vgg("vgg11", **{"width": 0.01, **bad})


@pytest.mark.parametrize("bad", [*BAD_NUMBERS, {"name": "vgg61"}, {"head": "big"}], ids=str)
def test_the_signature_alone_refuses_what_the_function_refuses(bad):
    ((name, value),) = bad.items()
    hints = typing.get_type_hints(build_vgg, include_extras=True)
    with pytest.raises(ValidationError):
        TypeAdapter(hints[name]).validate_python(value)


def assert_same_step(ours: VGG, theirs: nn.Module, images: torch.Tensor) -> None:
    """Same logits, gradients and running statistics in a training step, same logits after."""
    labels = torch.arange(len(images))
    logits, losses = [], []
    for network in (ours, theirs):
        network.train()
        torch.manual_seed(0)  # the same dropout
        logits.append(network(images))
        losses.append(F.cross_entropy(logits[-1], labels))
        losses[-1].backward()
    torch.testing.assert_close(logits[0], logits[1])
    for (name, mine), (their_name, their) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == their_name
        assert their.grad.abs().max() > 0
        torch.testing.assert_close(mine.grad, their.grad)
    for (name, mine), (their_name, their) in zip(
        ours.named_buffers(), theirs.named_buffers(), strict=True
    ):
        assert name == their_name
        torch.testing.assert_close(mine, their)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


def thin_torchvision(letter: str, batch_norm: bool) -> nn.Module:
    """torchvision's own VGG with a sixteenth of the channels, which it has no argument for."""
    channels = [c if c == "M" else c // 16 for c in torchvision.models.vgg.cfgs[letter]]
    features = torchvision.models.vgg.make_layers(channels, batch_norm=batch_norm)
    with torch.device("meta"):  # the full dense layers, which are replaced
        network = torchvision.models.VGG(features, num_classes=10, init_weights=False)
    network.classifier[0] = nn.Linear(32 * 49, 256)
    network.classifier[3] = nn.Linear(256, 256)
    network.classifier[6] = nn.Linear(256, 10)
    return network


@pytest.mark.parametrize("letter", ["A", "B", "D", "E"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_training_step_equals_torchvision(letter, batch_norm):
    torch.manual_seed(0)
    theirs = thin_torchvision(letter, batch_norm)
    ours = build_vgg(letter, batch_norm=batch_norm, width=1 / 16, num_classes=10)
    with torch.no_grad():
        for key, value in theirs.named_parameters():
            if value.ndim > 1:  # the spread that keeps the signal's size through ReLUs
                value.normal_(std=math.sqrt(2 / value[0].numel()))
            else:
                value.uniform_(0.5, 1.5) if key.endswith("weight") else value.normal_(std=0.1)
    ours.load_state_dict(theirs.state_dict())
    assert_same_step(ours, theirs, torch.randn(4, 3, 96, 64))


@pytest.mark.parametrize("name", ["vgg11", "vgg13", "vgg16", "vgg19"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_keys_and_shapes_are_torchvisions(name, batch_norm):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name + "_bn" * batch_norm)().state_dict()
        ours = build_vgg(name, batch_norm=batch_norm).state_dict()
    assert [(k, v.shape) for k, v in ours.items()] == [(k, v.shape) for k, v in theirs.items()]


def test_full_size_kaiming_is_torchvision_to_the_last_bit():
    torch.manual_seed(0)
    theirs = torchvision.models.vgg11(num_classes=10).eval()
    torch.manual_seed(0)
    ours = build_vgg("vgg11", num_classes=10).eval()
    expected = theirs.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in ours.state_dict().items())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("init", ["kaiming", "paper", "glorot"])
def test_initialisation_has_the_stated_spread(init):
    network = build_vgg("vgg13", width=0.25, num_classes=10, init=init)
    for module in network.modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        assert not module.bias.any()
        weight = module.weight.detach()
        field = weight[0, 0].numel()
        fan_in, fan_out = weight.shape[1] * field, weight.shape[0] * field
        std = {
            "kaiming": math.sqrt(2 / fan_out) if isinstance(module, nn.Conv2d) else 0.01,
            "paper": 0.1,
            "glorot": math.sqrt(2 / (fan_in + fan_out)),
        }[init]
        assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(weight.numel()))
        uniform = weight.abs().max() <= std * math.sqrt(3) * 1.0001
        assert uniform == (init == "glorot")


@pytest.mark.parametrize("head", ["imagenet", "compact"])
def test_dropout_acts_only_in_training(head):
    network = build_vgg("vgg11", width=0.05, head=head, num_classes=5)
    without = build_vgg("vgg11", width=0.05, head=head, num_classes=5, dropout=0.0)
    without.load_state_dict(network.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert not torch.equal(network.train()(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))
    assert torch.equal(network(images), without.eval()(images))
    assert torch.equal(without.train()(images), without.eval()(images))


def test_dropout_has_its_probability_and_keeps_the_mean():
    dropout = build_vgg("vgg11", width=0.01, dropout=0.3).train().classifier[2]
    dropped = dropout(torch.ones(100_000))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("head", ["imagenet", "compact"])
def test_output_is_logits_not_probabilities(head):
    network = build_vgg("vgg11", width=0.1, head=head, num_classes=10).eval()
    with torch.no_grad():
        network.classifier[-1].weight.normal_()
        images = torch.randn(4, 3, 32, 32)
        logits = network(images)
        assert (logits < 0).any()
        assert not torch.allclose(logits.sum(1), torch.ones(4))
        assert not torch.allclose(logits.exp().sum(1), torch.ones(4))  # nor their logarithm
        network.classifier[-1].weight.mul_(2)  # a linear output doubles with its layer
        torch.testing.assert_close(network(images), 2 * logits)


def test_lrn_is_krizhevskys_and_stands_after_the_first_relu():
    network = build_vgg("A-LRN", width=0.125).eval()
    relu, lrn = network.features[1]
    assert isinstance(relu, nn.ReLU)
    activations = torch.rand(2, 8, 3, 3, dtype=torch.float64) * 300  # large: the term must matter
    expected = torch.empty_like(activations)
    for i in range(8):
        around = activations[:, max(0, i - 2) : i + 3]
        expected[:, i] = activations[:, i] / (2 + 1e-4 * around.square().sum(1)) ** 0.75
    torch.testing.assert_close(lrn(activations), expected)
    assert sum(isinstance(module, nn.LocalResponseNorm) for module in network.modules()) == 1


def test_lrn_column_takes_the_weights_of_column_a():
    plain, lrn = build_vgg("A", width=0.05), build_vgg("A-LRN", width=0.05)
    lrn.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 32, 32)
    assert not torch.allclose(plain.eval()(images), lrn.eval()(images), atol=1e-8, rtol=1e-3)


def test_left_out_pools_are_the_last_and_keep_the_numbering():
    images = torch.randn(1, 3, 32, 32)
    full = build_vgg("vgg13", width=0.05, batch_norm=True)
    few = build_vgg("vgg13", width=0.05, batch_norm=True, max_pools=2)
    few.load_state_dict(full.state_dict())
    sides = []
    for module in few.features:
        images = module(images)
        sides.append(images.shape[-1])
    assert sorted(set(sides), reverse=True) == [32, 16, 8]
    assert [index for index, m in enumerate(few.features) if isinstance(m, nn.MaxPool2d)] == [
        index for index, m in enumerate(full.features) if isinstance(m, nn.MaxPool2d)
    ][:2]


def test_pool_of_a_seven_by_seven_map_is_nothing_at_all():
    network = build_vgg("vgg11", width=0.01)
    maps = torch.randn(1, 5, 7, 7)
    assert network.avgpool(maps) is maps
    wide = torch.randn(1, 5, 9, 14)
    torch.testing.assert_close(network.avgpool(wide), F.adaptive_avg_pool2d(wide, 7))


def test_exported_and_channels_last_forms_give_the_same_logits():
    network = build_vgg("vgg11", width=0.05, num_classes=4).eval()
    images = torch.randn(2, 3, 64, 64)
    expected = network(images)
    exported = torch.export.export(network, (images,)).module()
    torch.testing.assert_close(exported(images), expected)
    network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(
        network(images.to(memory_format=torch.channels_last)), expected, atol=1e-6, rtol=1e-4
    )
