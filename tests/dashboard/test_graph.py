"""The network as TensorBoard's graph."""

import itertools
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from vgglab.dashboard.graph import ModelGraph, network_graph
from vgglab.data import Digits
from vgglab.networks import build_vgg, layer_names
from vgglab.networks.vgg import CONFIGURATIONS
from vgglab.reporting.tensorboard import TensorBoard


def nodes(network: nn.Module, shape: tuple[int, ...] = (3, 32, 32)) -> dict[str, Any]:
    return {node.name: node for node in network_graph(network, shape).node}


def shape_of(node: Any) -> list[int]:
    (shape,) = node.attr["_output_shapes"].list.shape
    return [dim.size for dim in shape.dim]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_layer_is_a_node_in_a_chain(name: str) -> None:
    network = build_vgg(name, batch_norm=True, head="compact", width=0.0625, max_pools=4)
    found = nodes(network)
    layers = [node for node in found if node not in ("input", "view", "output")]
    assert [node.rpartition("/")[2] for node in layers] == list(layer_names(network))
    order = list(found)
    for before, node in itertools.pairwise(order):
        assert found[node].input == [before]
    assert {node.partition("/")[0] for node in layers if "conv" in node} == {
        f"stage{number}" for number in range(1, 6)
    }


def test_shapes_and_parameters_are_those_of_the_network() -> None:
    network = build_vgg("vgg11", num_classes=7, width=0.0625)
    found = nodes(network, (3, 64, 48))
    assert shape_of(found["stage1/conv1_1"]) == [1, 4, 64, 48]
    assert shape_of(found["output"]) == [1, 7]
    counts = [node.attr["parameters"].s for node in found.values() if "parameters" in node.attr]
    total = sum(int(count.replace(b",", b"")) for count in counts)
    assert total == sum(parameter.numel() for parameter in network.parameters())


def test_the_network_is_left_as_it_was() -> None:
    network = build_vgg("vgg11", batch_norm=True, head="compact", width=0.0625)
    network.to(memory_format=torch.channels_last)
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    network.compile()  # never run: the twin must not be compiled
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    gradients = [parameter.grad for parameter in network.parameters()]
    random = torch.get_rng_state()
    nodes(network)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    now = [parameter.grad for parameter in network.parameters()]
    assert all(a is b for a, b in zip(now, gradients, strict=True))
    assert all(module.training and not module._forward_hooks for module in network.modules())


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 1)
        self.right = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        return (self.left(images) + self.right(self.right[0](images)[:, :3])).mean((2, 3))


def test_any_network_has_a_graph_with_its_branches_and_what_is_used_twice() -> None:
    found = nodes(Branching())
    assert [node for node in found if node.startswith("right/0")] == ["right/0", "right/0_2"]
    assert set(found["add"].input) == {"left", "right/1"}
    assert shape_of(found["mean"]) == [1, 4]


class Looks(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images if images.sum() > 0 else -images


class Run:
    """As much of a trainer as the callback asks for."""

    is_global_zero = True

    def __init__(self, folder: Path) -> None:
        self.loggers = [TensorBoard(str(folder))]
        self.datamodule = Digits(batch_size=8)


def test_what_cannot_be_drawn_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = LightningModule()
    module.network = Looks()
    trainer: Trainer = Run(tmp_path)  # type: ignore[assignment]
    callback = ModelGraph()
    with caplog.at_level(logging.WARNING):
        callback.setup(trainer, module, "fit")
        callback.on_train_start(trainer, module)
    (record,) = caplog.records
    assert record.getMessage().startswith("no graph of Looks for TensorBoard: ")
    assert "\n" not in record.getMessage()
