"""Theoretical receptive fields."""

from typing import NamedTuple

from torch import nn

from vgglab.networks.dense import DenseVGG
from vgglab.networks.layers import layer_names
from vgglab.networks.vgg import VGG


class ReceptiveField(NamedTuple):
    """What one output of a layer sees of the image, in pixels."""

    name: str
    """The layer, in the paper's terms."""
    size: int
    """Side of the square that one output depends on."""
    jump: int
    """Distance between the squares of neighbouring outputs."""
    start: float
    """Centre of the first output's square, from the image's edge: the first pixel's is 0.5."""


def receptive_field(network: VGG | DenseVGG) -> list[ReceptiveField]:
    """The receptive field of every convolution and max-pool, in forward order.

    The square of output i spans `start + i * jump - size / 2` to `start + i * jump + size / 2`
    along each axis, padding included. Whole numbers and halves, so floats hold them exactly. The
    average pool before a classifier is left out: it sees the whole image, whatever its size.

    The recurrences are those of Araujo et al. 2019, distill.pub/2019/computing-receptive-fields.
    """
    rows = []
    size, jump, start = 1, 1, 0.5
    for name, path in layer_names(network).items():
        module = network.get_submodule(path)
        if not isinstance(module, nn.Conv2d | nn.MaxPool2d):
            continue
        kernel, dilation, stride, padding = (
            value if isinstance(value, int) else int(value[0])
            for value in (module.kernel_size, module.dilation, module.stride, module.padding)
        )
        reach = dilation * (kernel - 1)
        size += reach * jump
        start += (reach / 2 - padding) * jump
        jump *= stride
        rows.append(ReceptiveField(name, size, jump, start))
    return rows
