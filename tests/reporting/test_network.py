"""The network's part of the page."""

import torch

from tests.reporting.pages import Page
from vgglab.networks import build_vgg, receptive_field
from vgglab.reporting.network import network_record, network_section
from vgglab.reporting.record import NetworkRecord
from vgglab.reporting.summary import summarize


def test_the_layers_come_back_from_the_file() -> None:
    network = build_vgg("vgg11", num_classes=10, head="compact", width=0.125)
    record = network_record(network, summarize(network, (3, 32, 32)))
    again = NetworkRecord.model_validate_json(record.model_dump_json())
    assert again == record
    assert record.parameters == sum(p.numel() for p in network.parameters())
    assert sum(layer.parameters for layer in record.layers) == record.parameters
    sizes = {layer.name: layer.receptive_field for layer in record.layers}
    assert {name: size for name, size in sizes.items() if size is not None} == {
        row.name: row.size for row in receptive_field(network)
    }
    page = Page(network_section(record))
    assert page.tags.count("tr") == 1 + len(record.layers)
    assert "conv1_1 Conv2d 8 x 32 x 32 224" in page.text


class Untraceable(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.mean() > 1:
            return self.linear(images.mean((2, 3))) * 2
        return torch.as_tensor(self.linear(images.mean((2, 3))))


def test_a_network_that_cannot_be_traced_has_no_receptive_fields() -> None:
    network = Untraceable()
    record = network_record(network, summarize(network, (3, 8, 8)))
    assert record.layers
    assert all(layer.receptive_field is None for layer in record.layers)
    assert "bar" not in network_section(record)
