import pytest
import torch
from torch import nn

from vgglab.networks import build_vgg, extract, layer_names, to_dense

NAMES = ("vgg11", "vgg11_lrn", "vgg13", "vgg16_1x1", "vgg16", "vgg19", "vgg13_5x5")


def hooked(network, images):
    """Every layer's output by forward hooks, copied before an in-place ReLU can change it."""
    outputs, handles = {}, []
    for name, path in layer_names(network).items():

        def keep(module, inputs, output, name=name):
            outputs[name] = output.detach().clone()

        handles.append(network.get_submodule(path).register_forward_hook(keep))
    network(images)
    for handle in handles:
        handle.remove()
    return outputs


def test_names_of_vgg11_in_forward_order():
    names = layer_names(build_vgg("vgg11", width=0.01))
    expected = """
        conv1_1 relu1_1 pool1 conv2_1 relu2_1 pool2 conv3_1 relu3_1 conv3_2 relu3_2 pool3
        conv4_1 relu4_1 conv4_2 relu4_2 pool4 conv5_1 relu5_1 conv5_2 relu5_2 pool5 avgpool
        fc6 relu6 dropout6 fc7 relu7 dropout7 fc8
    """
    assert list(names) == expected.split()
    assert names["conv1_1"] == "features.0"
    assert names["pool5"] == "features.20"
    assert names["fc6"] == "classifier.0"
    assert names["fc8"] == "classifier.6"


def test_names_follow_norms_lrn_left_out_pools_and_the_compact_head():
    network = build_vgg(
        "A-LRN", width=0.01, batch_norm=True, head="compact", max_pools=1, num_classes=3
    )
    expected = """
        conv1_1 bn1_1 relu1_1 lrn1_1 pool1 conv2_1 bn2_1 relu2_1
        conv3_1 bn3_1 relu3_1 conv3_2 bn3_2 relu3_2
        conv4_1 bn4_1 relu4_1 conv4_2 bn4_2 relu4_2
        conv5_1 bn5_1 relu5_1 conv5_2 bn5_2 relu5_2 avgpool dropout fc
    """
    assert list(layer_names(network)) == expected.split()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("head", ["imagenet", "compact"])
def test_names_lead_to_the_layers_of_their_kind(name, batch_norm, head):
    network = build_vgg(name, width=0.01, batch_norm=batch_norm, head=head)
    kinds = {
        "conv": nn.Conv2d,
        "bn": nn.BatchNorm2d,
        "relu": nn.ReLU,
        "lrn": nn.LocalResponseNorm,
        "pool": nn.MaxPool2d,
        "avgpool": nn.AdaptiveAvgPool2d,
        "dropout": nn.Dropout,
        "fc": nn.Linear,
    }
    found = layer_names(network)
    for layer, path in found.items():
        assert isinstance(network.get_submodule(path), kinds[layer.rstrip("0123456789_")])
    leaves = [path for path, module in network.named_modules() if not list(module.children())]
    assert list(found.values()) == leaves  # nothing left out, nothing twice


def test_modules_put_in_by_hand_are_named_and_run():
    network = build_vgg("vgg11", width=0.05, batch_norm=True).eval()
    network.features[2] = nn.GELU()
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    names = layer_names(network)
    assert list(names)[:4] == ["conv1_1", "bn1_1", "gelu1_1", "pool1"]
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(extract(network, images, ["fc8"])["fc8"], network(images))


@pytest.mark.parametrize("name", ["vgg11_lrn", "vgg16_1x1"])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("head", ["imagenet", "compact"])
def test_every_layer_equals_the_hooks(name, batch_norm, head):
    network = build_vgg(name, width=0.02, batch_norm=batch_norm, head=head).eval()
    images = torch.randn(1, 3, 32, 48)
    reference = hooked(network, images)
    together = extract(network, images, list(reference))
    assert list(together) == list(reference)
    for layer, expected in reference.items():
        torch.testing.assert_close(together[layer], expected, msg=layer)
        alone = extract(network, images, [layer])
        assert list(alone) == [layer]
        torch.testing.assert_close(alone[layer], expected, msg=layer)


def test_dense_form_has_the_same_names_but_the_average_pool():
    network = build_vgg("vgg11", width=0.02, max_pools=2).eval()
    dense = to_dense(network)
    assert list(layer_names(dense)) == [name for name in layer_names(network) if name != "avgpool"]
    images = torch.randn(1, 3, 36, 40)
    reference = hooked(dense, images)
    for layer, found in extract(dense, images, ["relu7", "conv1_1"]).items():
        torch.testing.assert_close(found, reference[layer])


def test_a_convolution_is_given_before_its_relu():
    network = build_vgg("vgg11", width=0.1)
    found = extract(network, torch.randn(1, 3, 32, 32), ["conv1_1", "relu1_1"])
    assert (found["conv1_1"] < 0).any()
    assert torch.equal(found["relu1_1"], found["conv1_1"].relu())


def test_order_is_the_callers():
    network = build_vgg("vgg11", width=0.02)
    found = extract(network, torch.randn(1, 3, 32, 32), ["pool2", "conv1_1", "pool2"])
    assert list(found) == ["pool2", "conv1_1"]


def test_nothing_deeper_runs():
    network = build_vgg("vgg11", width=0.02)
    ran = []
    for name, path in layer_names(network).items():
        network.get_submodule(path).register_forward_hook(lambda *_, name=name: ran.append(name))
    extract(network, torch.randn(1, 3, 32, 32), ["conv2_1", "relu1_1"])
    assert ran == ["conv1_1", "relu1_1", "pool1", "conv2_1"]
    ran.clear()
    assert extract(network, torch.randn(1, 3, 32, 32), []) == {}
    assert ran == []


def test_gradients_reach_the_image_and_the_image_is_untouched():
    network = build_vgg("vgg11", width=0.1).eval()
    images = torch.randn(1, 3, 32, 32, requires_grad=True)
    before = images.detach().clone()
    found = extract(network, images, ["conv1_1", "relu1_1", "conv2_1"])
    sum(output.sum() for output in found.values()).backward()
    assert images.grad.abs().max() > 0
    assert torch.equal(images.detach(), before)


def test_unknown_layer_is_refused_with_the_nearest():
    network = build_vgg("vgg11", width=0.01)
    with pytest.raises(ValueError, match=r"'conv3_9' in vgg11; did you mean conv3_\d\?.*fc8"):
        extract(network, torch.zeros(1, 3, 32, 32), ["conv1_1", "conv3_9"])
    with pytest.raises(ValueError, match="bn1_1"):
        extract(network, torch.zeros(1, 3, 32, 32), ["bn1_1"])
