import pytest
import torch
from torch import nn

from vgglab.networks import receptive_field
from vgglab.networks.stacks import STACKS, build_stack


# Section 2.3: the field of two 3x3 is 5x5, of three 7x7; 27 C^2 weights against 49 C^2.
@pytest.mark.parametrize(
    ("name", "field", "weights"),
    [
        ("1 x 3x3", 3, 9),
        ("2 x 3x3", 5, 18),
        ("1 x 5x5", 5, 25),
        ("3 x 3x3", 7, 27),
        ("1 x 7x7", 7, 49),
    ],
)
def test_stacks_see_and_hold_what_the_paper_says(name, field, weights):
    network = build_stack(STACKS[name], channels=3)
    assert receptive_field(network)[-1][1:] == (field, 1, 0.5)
    assert sum(parameter.numel() for parameter in network.parameters()) == weights * 3**2
    maps = torch.randn(2, 3, 9, 11)
    assert network(maps).shape == maps.shape
    kinds = [nn.Conv2d, nn.ReLU] * len(STACKS[name])
    assert [type(module) for module in network] == kinds
