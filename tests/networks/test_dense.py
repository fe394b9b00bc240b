import pytest
import torch
from torch import nn

from vgglab.networks import build_vgg, to_dense

NAMES = ("vgg11", "vgg11_lrn", "vgg13", "vgg16_1x1", "vgg16", "vgg19", "vgg13_5x5")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_dense_equals_the_crop_network_at_224(name, batch_norm):
    network = build_vgg(name, width=0.04, batch_norm=batch_norm, num_classes=7).eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        dense = to_dense(network)(images)
        assert dense.shape == (2, 7, 1, 1)
        torch.testing.assert_close(dense.flatten(1), network(images))


def test_layers_are_convolutions_of_the_papers_sizes():
    with torch.device("meta"):
        layers = [m for m in to_dense(build_vgg("vgg16")).classifier if not isinstance(m, nn.ReLU)]
    shapes = [tuple(m.weight.shape) for m in layers if isinstance(m, nn.Conv2d)]
    assert shapes == [(4096, 512, 7, 7), (4096, 4096, 1, 1), (1000, 4096, 1, 1)]
    assert not any(isinstance(m, nn.Linear) for m in layers)


def test_map_grows_by_a_position_every_32_pixels():
    dense = to_dense(build_vgg("vgg11", width=0.01, num_classes=3)).eval()
    for height, across in [(224, 256), (255, 287), (256, 288)]:
        logits = dense(torch.randn(1, 3, height, across))
        assert logits.shape == (1, 3, (height - 192) // 32, (across - 192) // 32)


def test_each_position_is_the_classifier_on_its_window_of_the_map():
    network = build_vgg("vgg16", width=0.04, num_classes=5).eval()
    images = torch.randn(1, 3, 288, 320)
    with torch.no_grad():
        maps = network.features(images)
        logits = to_dense(network)(images)
        assert logits.shape == (1, 5, 3, 4)
        for i in range(3):
            for j in range(4):
                window = maps[:, :, i : i + 7, j : j + 7].flatten(1)
                torch.testing.assert_close(logits[:, :, i, j], network.classifier(window))


def test_aligned_positions_equal_crops_where_there_is_no_padding():
    network = build_vgg("vgg16", width=0.04, num_classes=5).eval()
    for module in network.features:
        if isinstance(module, nn.Conv2d):
            module.padding = (0, 0)
    dense = to_dense(network)
    # 404 pixels are the receptive field of fc6: the smallest crop with a 7x7 map, unpadded.
    images = torch.randn(1, 3, 404 + 32, 404 + 2 * 32)
    with torch.no_grad():
        logits = dense(images)
        assert logits.shape == (1, 5, 2, 3)
        for i in range(2):
            for j in range(3):
                crop = images[:, :, 32 * i : 32 * i + 404, 32 * j : 32 * j + 404]
                torch.testing.assert_close(logits[:, :, i, j], network(crop))


def test_padding_is_all_that_parts_the_last_map_from_a_crops():
    network = build_vgg("vgg16", width=0.04).double().eval()
    images = torch.randn(1, 3, 288, 288, dtype=torch.float64)
    with torch.no_grad():
        whole = network.features(images)[:, :, 1:8, 1:8]
        crop = network.features(images[:, :, 32:256, 32:256])
    # The middle position sees 112 +- 106 pixels of the crop's 224; its neighbours look outside.
    torch.testing.assert_close(crop[:, :, 3, 3], whole[:, :, 3, 3])
    assert not torch.allclose(crop[:, :, 0, 0], whole[:, :, 0, 0], rtol=1e-6)


def test_compact_maps_average_to_the_networks_logits():
    network = build_vgg("vgg11", width=0.1, head="compact", num_classes=6, max_pools=3).eval()
    images = torch.randn(3, 3, 40, 64)
    logits = to_dense(network)(images)
    assert logits.shape == (3, 6, 5, 8)
    torch.testing.assert_close(logits.mean((2, 3)), network(images))
    assert logits.std((2, 3)).min() > 0


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match="smallest side is 224"):
        to_dense(build_vgg("vgg11", width=0.01))(torch.zeros(1, 3, 224, 223))
    with pytest.raises(ValueError, match="smallest side is 28"):
        to_dense(build_vgg("vgg11", width=0.01, max_pools=2))(torch.zeros(1, 3, 27, 28))
    with pytest.raises(ValueError, match="smallest side is 4"):
        to_dense(build_vgg("vgg11", width=0.01, head="compact", max_pools=2))(
            torch.zeros(1, 3, 3, 4)
        )


def test_memory_is_shared_but_modes_types_and_gradients_are_not():
    network = build_vgg("vgg11", width=0.05, batch_norm=True, num_classes=3).train()
    dense = to_dense(network)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    network(images)  # moves the running statistics too
    torch.testing.assert_close(dense.eval()(images).flatten(1), network.eval()(images))
    network.train()
    assert not dense.training
    assert not any(module.training for module in dense.modules())
    dense(images).sum().backward()
    assert all(parameter.grad is None for parameter in network.parameters())
    dense.double()
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


def test_frozen_layers_and_the_mode_are_taken_over():
    network = build_vgg("vgg11", width=0.02).eval()
    network.features.requires_grad_(False)
    network.classifier[0].weight.requires_grad_(False)
    dense = to_dense(network)
    assert not dense.training
    assert [p.requires_grad for p in dense.parameters()] == [
        p.requires_grad for p in network.parameters()
    ]
