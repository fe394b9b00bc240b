"""The stacks of convolutions that section 2.3 of the paper weighs against one another."""

from collections.abc import Sequence

from torch import nn

STACKS: dict[str, tuple[int, ...]] = {
    "1 x 3x3": (3,),
    "2 x 3x3": (3, 3),
    "1 x 5x5": (5,),
    "3 x 3x3": (3, 3, 3),
    "1 x 7x7": (7,),
}
"""Kernels by name; the two of a pair that see as much stand next to each other."""


def build_stack(kernels: Sequence[int], channels: int) -> nn.Sequential:
    """Convolutions with a ReLU after each: (N, C, H, W) to maps of the same shape.

    Without biases, as the paper counts: 27 C^2 parameters for three of 3x3, 49 C^2 for one 7x7.
    """
    layers: list[nn.Module] = []
    for kernel in kernels:
        layers.append(nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
