"""Deeper columns that begin with layers of a trained column A (section 3.1)."""

import pytest
import torch

from vgglab.networks import WeightsError, build_vgg, layer_names

SMALL = {"width": 0.03, "num_classes": 5}
CONVOLUTIONS = ["conv1_1", "conv2_1", "conv3_1", "conv3_2"]


def saved(path, name="A", **settings):
    torch.manual_seed(1)
    network = build_vgg(name, **{**SMALL, **settings})
    torch.save(network.state_dict(), path)
    return network


def layer(network, name):
    return network.get_submodule(layer_names(network)[name]).state_dict()


@pytest.mark.parametrize("name", ["B", "C", "D", "E"])
@pytest.mark.parametrize("donor", ["A", "A-LRN"])
def test_the_papers_layers_are_taken_and_no_others(name, donor, tmp_path):
    source = saved(tmp_path / "a.pth", donor)
    torch.manual_seed(2)
    fresh = build_vgg(name, **SMALL)
    torch.manual_seed(2)
    network = build_vgg(name, init_from=str(tmp_path / "a.pth"), **SMALL)
    taken = [*CONVOLUTIONS, "fc6", "fc7", "fc8"]
    assert network.inherited == taken
    for layer_name in layer_names(network):
        origin = source if layer_name in taken else fresh
        for key, value in layer(network, layer_name).items():
            assert torch.equal(value, layer(origin, layer_name)[key]), layer_name


def test_batch_norm_goes_with_its_convolution(tmp_path):
    source = saved(tmp_path / "a.pth", batch_norm=True, head="compact")
    with torch.no_grad():
        for tensor in source.state_dict().values():
            tensor += 3
    torch.save(source.state_dict(), tmp_path / "a.pth")
    network = build_vgg(
        "D", batch_norm=True, head="compact", init_from=str(tmp_path / "a.pth"), **SMALL
    )
    expected = [n for c in CONVOLUTIONS for n in (c, c.replace("conv", "bn"))]
    assert network.inherited == [*expected, "fc"]
    for name in network.inherited:
        for key, value in layer(network, name).items():
            assert torch.equal(value, layer(source, name)[key])


def test_other_classes_keep_the_last_layer_new(tmp_path):
    saved(tmp_path / "a.pth", num_classes=7)
    network = build_vgg("D", init_from=str(tmp_path / "a.pth"), **SMALL)
    assert network.inherited == [*CONVOLUTIONS, "fc6", "fc7"]


@pytest.mark.parametrize(
    ("donor", "settings"),
    [("B", {}), ("A", {"width": 0.05}), ("A", {"batch_norm": True}), ("A", {"head": "compact"})],
)
def test_anything_but_a_fitting_column_a_is_refused(donor, settings, tmp_path):
    saved(tmp_path / "other.pth", donor, **settings)
    with pytest.raises(WeightsError, match=r"other\.pth is no column A with head=imagenet"):
        build_vgg("D", init_from=str(tmp_path / "other.pth"), **SMALL)


def test_the_shallow_variant_has_other_layers(tmp_path):
    saved(tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="vgg13_5x5 has no conv1_1 as column A"):
        build_vgg("vgg13_5x5", init_from=str(tmp_path / "a.pth"), **SMALL)


def test_torchvisions_weights_are_a_trained_a(tmp_path, monkeypatch):
    source = saved(tmp_path / "a.pth")
    monkeypatch.setattr("vgglab.networks.weights._public_file", lambda _: tmp_path / "a.pth")
    network = build_vgg("E", init_from="IMAGENET1K_V1", **SMALL)
    assert torch.equal(layer(network, "conv3_2")["weight"], layer(source, "conv3_2")["weight"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"no weights at .*nowhere\.pth"):
        build_vgg("D", init_from=str(tmp_path / "nowhere.pth"), **SMALL)
