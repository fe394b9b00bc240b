"""Feature maps, Grad-CAM against captum's, and the layer that is looked at."""

import pytest
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from torchvision.models import resnet18

from vgglab.networks import VGG, build_vgg, layer_names
from vgglab.networks.attribution import feature_maps, grad_cam, heat_layer, heats


def network(**settings: object) -> VGG:
    torch.manual_seed(0)
    built = build_vgg("vgg11", width=1 / 16, num_classes=5, max_pools=3, **settings)  # type: ignore[arg-type]
    for parameter in built.classifier.parameters():  # N(0, 0.01^2) would make tiny gradients
        nn.init.normal_(parameter, std=0.3)
    return built.eval()


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 3, 32, 24, generator=torch.Generator().manual_seed(1))


TARGETS = torch.tensor([4, 0, 2, 1, 3, 0])


def reference(built: VGG, given: Tensor, layer: str, targets: Tensor) -> Tensor:
    explainer = LayerGradCam(built, built.get_submodule(layer_names(built)[layer]))
    return explainer.attribute(given, targets, relu_attributions=True).detach().squeeze(1)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("head", ["compact", "imagenet"])
@pytest.mark.parametrize("layer", ["conv3_2", "relu3_2", "conv5_2", "relu5_2", "pool3"])
def test_grad_cam_is_captums(layer: str, head: str, batch_norm: bool) -> None:
    built = network(head=head, batch_norm=batch_norm)
    expected = reference(built, images(), layer, TARGETS)
    assert expected.amax((1, 2)).count_nonzero() >= 2  # else all could be nothing
    result = grad_cam(built, images(), layer, TARGETS)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-6 * expected.max().item())


def test_grad_cam_asks_for_each_images_own_class() -> None:
    built = network(head="compact")
    together = grad_cam(built, images(), "conv3_2", TARGETS)
    for i, target in enumerate(TARGETS):
        alone = grad_cam(built, images()[i : i + 1], "conv3_2", target[None])
        torch.testing.assert_close(together[i : i + 1], alone)
    assert not torch.equal(together, grad_cam(built, images(), "conv3_2", TARGETS.flip(0)))


def test_a_network_in_training_and_a_frozen_one_are_left_as_they_were() -> None:
    built = network(head="compact", batch_norm=True).requires_grad_(False)
    expected = grad_cam(built, images(), "relu3_2", TARGETS)
    built.requires_grad_(True).train()
    built.features[1].eval()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    with torch.inference_mode():  # as in a validation epoch
        result = grad_cam(built, images(), "relu3_2", TARGETS)
        feature_maps(built, images(), "relu3_2")
    torch.testing.assert_close(result, expected)
    assert not result.requires_grad
    assert built.training
    assert not built.features[1].training
    assert all(parameter.grad is None for parameter in built.parameters())
    assert all(torch.equal(value, before[name]) for name, value in built.state_dict().items())
    assert not any(module._forward_hooks for module in built.modules())


def test_feature_maps_are_the_layers_output_before_the_relu_in_place() -> None:
    built = network()
    maps = feature_maps(built, images(), "conv1_1")
    torch.testing.assert_close(maps, built.features[0](images()))
    assert maps.min() < 0
    assert not maps.requires_grad


def test_a_vector_or_an_unknown_layer_is_refused() -> None:
    for look in (feature_maps, lambda *given: grad_cam(*given, TARGETS)):
        with pytest.raises(ValueError, match="fc6 of vgg11 is a vector"):
            look(network(), images(), "fc6")
        with pytest.raises(ValueError, match="no layer 'conv9_9'"):
            look(network(), images(), "conv9_9")


def test_many_images_are_each_their_own() -> None:
    built, given = network(head="compact"), images(19)
    targets = torch.arange(19) % 5
    found = heats(built, given, "relu3_2", targets)
    for place in (0, 7, 8, 18):
        alone = grad_cam(built, given[place, None], "relu3_2", targets[place, None])[0]
        torch.testing.assert_close(found[place], alone)
    assert found.shape == (19, 8, 6)
    assert found.amax((1, 2)).count_nonzero() > 10


@pytest.mark.parametrize(
    ("side", "settings", "layer"),
    [
        (224, {}, "relu5_2"),
        (64, {}, "relu5_2"),
        (32, {}, "relu4_2"),
        (8, {"max_pools": 2}, "relu2_1"),
        (8, {"max_pools": 1}, "relu5_2"),
        (3, {"max_pools": 1}, None),
    ],
)
def test_the_last_layer_that_is_fine_enough(
    side: int, settings: dict[str, int], layer: str | None
) -> None:
    built = build_vgg("vgg11", width=1 / 16, head="compact", in_channels=1, **settings)  # type: ignore[arg-type]
    assert heat_layer(built.eval(), (1, side, side + 5)) == layer


def test_other_networks_have_none() -> None:
    assert heat_layer(resnet18(), (3, 64, 64)) is None
