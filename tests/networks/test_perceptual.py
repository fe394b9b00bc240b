"""The perceptual and style losses, against torchvision's layers and the formulae written out."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import vgg

from vgglab.networks import VGG, PerceptualLoss, build_vgg, to_dense
from vgglab.networks.perceptual import gram_matrix

CONTENT = {"relu3_3": 1.0, "conv2_1": 0.5}
STYLE = {"relu1_2": 2.0, "relu2_2": 3.0}


def small(**settings: object) -> VGG:
    torch.manual_seed(0)
    return build_vgg("vgg16", width=1 / 16, num_classes=4, **settings)  # type: ignore[arg-type]


def images(count: int = 2, height: int = 32, width: int = 40, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def loss() -> PerceptualLoss:
    return PerceptualLoss(CONTENT, STYLE, network=small(batch_norm=True))


def test_equal_images_have_no_loss(loss: PerceptualLoss) -> None:
    assert loss(images(), images()).item() == 0
    assert loss(images(), images(seed=2)).item() > 0


def test_the_loss_is_the_sum_of_torchvisions_layers() -> None:
    torch.manual_seed(0)
    theirs = vgg.make_layers(vgg.cfgs["D"])  # the features of torchvision.models.vgg16
    ours = build_vgg("vgg16", head="compact")
    ours.features.load_state_dict(theirs.state_dict())
    given, target, style = images(), images(seed=2), images(seed=3, height=48)

    def features(of: Tensor, depth: int) -> Tensor:
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        normalized = (of - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        return theirs[:depth](normalized).detach()

    def gram(maps: Tensor) -> Tensor:
        return torch.einsum("nihw,njhw->nij", maps, maps) / maps[0].numel()

    # torchvision's features: conv2_1 is number 5, relu1_2 3, relu2_2 8 and relu3_3 15. The slice
    # ends with the layer itself, so that no ReLU in place comes after conv2_1.
    expected = torch.tensor(0.0)
    for depth, weight in ((16, 1.0), (6, 0.5)):
        expected += weight * nn.functional.mse_loss(features(given, depth), features(target, depth))
    for depth, weight in ((4, 2.0), (9, 3.0)):
        difference = gram(features(given, depth)) - gram(features(style, depth))
        expected += weight * torch.linalg.matrix_norm(difference).square().mean()

    loss = PerceptualLoss(CONTENT, STYLE, network=ours)
    torch.testing.assert_close(loss(given, target, style), expected, rtol=1e-4, atol=1e-6)


def test_no_network_means_column_d_with_the_weights_named(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def build(name: str, **settings: object) -> VGG:
        built.append((name, settings))
        return small()

    monkeypatch.setattr("vgglab.networks.perceptual.build_vgg", build)
    PerceptualLoss(layers={"conv3_3": 1.0}, style_layers={"relu1_2": 1.0})
    assert built == [("vgg16", {"weights": "IMAGENET1K_V1"})]


def test_the_gradient_reaches_the_images_alone(loss: PerceptualLoss) -> None:
    given = images().requires_grad_()
    target = images(seed=2).requires_grad_()
    loss(given, target).backward()
    assert given.grad is not None
    assert given.grad.isfinite().all()
    assert given.grad.abs().amax((1, 2, 3)).min() > 0
    assert target.grad is None
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_the_gradient_is_that_of_finite_differences() -> None:
    loss = PerceptualLoss({"conv1_1": 1.0}, {"relu1_2": 1.0}, network=small()).double()
    target = images(1, 4, 4, seed=2).double()
    given = images(1, 4, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, target), given)


def test_it_stays_frozen_and_leaves_the_given_network_alone() -> None:
    network = small(batch_norm=True).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    parent = nn.Sequential(PerceptualLoss({"relu2_2": 1.0}, network=network)).train()
    assert not any(module.training for module in parent[0].modules())
    parent[0](images(), images(seed=2))
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_the_loss_does_not_follow_a_network_that_trains_on() -> None:
    network = small()
    loss = PerceptualLoss({"relu2_2": 1.0}, network=network)
    before = loss(images(), images(seed=2))
    with torch.no_grad():
        network.features[0].weight.zero_()
    assert loss(images(), images(seed=2)) == before


@pytest.mark.parametrize("way", ["autocast", "images", "weights"])
def test_bfloat16_is_close_to_float32(way: str) -> None:
    loss = PerceptualLoss(CONTENT, STYLE, network=small())
    given, target = images(), images(seed=2)
    # What bfloat16 makes of the pixels is the caller's own doing.
    given, target = (x.bfloat16().float() for x in (given, target))
    expected = loss(given, target)
    if way == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(given, target)
    elif way == "images":
        value = loss(given.bfloat16(), target.bfloat16())
    else:
        value = loss.bfloat16()(given.bfloat16(), target.bfloat16())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=0.05, atol=0)


def test_gram_matrices_are_float32_and_do_not_grow_with_the_image() -> None:
    maps = torch.rand(2, 5, 6, 7)
    expected = torch.einsum("nihw,njhw->nij", maps, maps) / (5 * 6 * 7)
    torch.testing.assert_close(gram_matrix(maps), expected)
    torch.testing.assert_close(gram_matrix(maps.repeat(1, 1, 3, 2)), expected)
    with torch.autocast("cpu", torch.bfloat16):
        exact = gram_matrix(maps)
    assert exact.dtype == torch.float32
    torch.testing.assert_close(exact, expected)
    # The sum of 65,536 halves overflows what float16 can hold, and stops growing in bfloat16.
    wide = torch.full((1, 1, 256, 256), 1.0)
    for dtype in (torch.float16, torch.bfloat16):
        assert gram_matrix(wide.to(dtype)).item() == 1


def test_a_style_may_have_another_size_and_a_content_may_not(loss: PerceptualLoss) -> None:
    style = images(1, 50, 36, seed=3)
    one_by_one = [loss(images()[i : i + 1], images(seed=2)[i : i + 1], style) for i in range(2)]
    together = loss(images(), images(seed=2), style)
    torch.testing.assert_close(together, torch.stack(one_by_one).mean())
    with pytest.raises(ValueError, match="the target needs the images' size"):
        loss(images(), style)


def test_targets_once_made_give_the_same_loss(loss: PerceptualLoss) -> None:
    targets = loss.targets(images(seed=2), images(seed=3))
    content, style = loss.terms(images(), targets)
    expected = loss(images(), images(seed=2), images(seed=3))
    torch.testing.assert_close(content + style, expected, rtol=0, atol=0)
    assert not any(value.requires_grad for value in targets.content.values())


def test_nothing_below_the_deepest_layer_runs() -> None:
    loss = PerceptualLoss({"relu2_2": 1.0}, network=small())
    called: list[str] = []
    for name, module in loss.network.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    loss(images(), images(seed=2))
    assert max(int(name.removeprefix("features.")) for name in called) == 8  # relu2_2
    assert not any(name.startswith("classifier") for name, _ in loss.named_parameters())


def test_dense_layers_and_dense_forms_and_grey_images_work() -> None:
    assert PerceptualLoss({"fc7": 1.0}, network=small())(images(), images(seed=2)) > 0
    dense = to_dense(small(head="compact"))
    assert PerceptualLoss({}, {"relu1_1": 1.0}, network=dense)(images(), images(seed=2)) > 0
    grey = PerceptualLoss({"relu1_1": 1.0}, network=small(in_channels=1), mean=(0.5,), std=(0.25,))
    given, target = images()[:, :1], images(seed=2)[:, :1]
    first = grey.network.features[0]
    expected = first((given - 0.5) / 0.25).relu() - first((target - 0.5) / 0.25).relu()
    torch.testing.assert_close(grey(given, target), expected.square().mean())


def test_what_does_not_fit_is_refused_at_construction() -> None:
    network = small()
    with pytest.raises(ValueError, match=r"no layer 'relu3_4' in vgg16; did you mean relu3_\d"):
        PerceptualLoss({"relu3_4": 1.0}, network=network)
    with pytest.raises(ValueError, match="no layer 'pool6'"):
        PerceptualLoss({"relu3_3": 1.0}, {"pool6": 1.0}, network=network)
    with pytest.raises(ValueError, match="fc7 has no positions"):
        PerceptualLoss({}, {"fc7": 1.0}, network=network)
    with pytest.raises(ValueError, match="at least one layer"):
        PerceptualLoss({}, network=network)
    with pytest.raises(ValueError, match="need 3 numbers"):
        PerceptualLoss({"relu3_3": 1.0}, network=network, mean=(0.5,), std=(0.5,))


def test_images_that_are_no_floats_or_of_other_channels_are_refused(loss: PerceptualLoss) -> None:
    with pytest.raises(ValueError, match="floats of 0 to 1"):
        loss((images() * 255).to(torch.uint8), images())
    with pytest.raises(ValueError, match="1 channels, not 3"):
        loss(images()[:, :1], images()[:, :1])
