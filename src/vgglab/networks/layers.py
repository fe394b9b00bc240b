"""Layers by the paper's names."""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from vgglab.networks.dense import DenseVGG
from vgglab.networks.vgg import VGG, SkippedPool

_HEADS = {
    "imagenet": ("fc6", "relu6", "dropout6", "fc7", "relu7", "dropout7", "fc8"),
    "compact": ("dropout", "fc"),
}
_KINDS: dict[str, type[nn.Module]] = {
    "conv": nn.Conv2d,
    "bn": nn.modules.batchnorm._BatchNorm,  # SyncBatchNorm too
    "relu": nn.ReLU,
    "lrn": nn.LocalResponseNorm,
}


def layer_names(network: VGG | DenseVGG) -> dict[str, str]:
    """The layers' names in the paper's terms, each with its module path, in forward order.

    `conv1_1 bn1_1 relu1_1 lrn1_1 ... pool1 ... pool5`, then `avgpool fc6 relu6 dropout6 fc7 relu7
    dropout7 fc8`, or `avgpool dropout fc` for the compact head. What the network does not have
    (normalisation, pools that were left out, the average pool in the dense form) has no name here.
    The dense layers are 6 to 8 in every column, as in the authors' published models.
    """
    names: dict[str, str] = {}
    stage, convolution = 1, 0
    for path, module in _leaves(network.features, "features"):
        if isinstance(module, nn.Conv2d):
            convolution += 1
        if isinstance(module, nn.MaxPool2d):
            names[f"pool{stage}"] = path
        elif not isinstance(module, SkippedPool):
            names[f"{_kind(module)}{stage}_{convolution}"] = path
        if isinstance(module, nn.MaxPool2d | SkippedPool):
            stage, convolution = stage + 1, 0
    if isinstance(network, VGG):
        names["avgpool"] = "avgpool"
    head = zip(_HEADS[network.head], network.classifier.named_children(), strict=True)
    return names | {name: f"classifier.{index}" for name, (index, _) in head}


def extract(network: VGG | DenseVGG, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """The outputs of the named layers, in the order asked for.

    Runs the network up to the deepest of them and no further, in the mode it is in (so call
    `network.eval()` first unless dropout is wanted), with gradients where they are enabled.

    Args:
        network: a VGG or its dense form.
        images: (N, in_channels, H, W), as the network takes them.
        layers: names of `layer_names(network)`.

    Returns:
        (N, C, h, w) for layers of maps; (N, C) for the dense layers of a VGG. A convolution's
        output is that before its ReLU.

    Raises:
        ValueError: a name that the network does not have.
    """
    names = layer_names(network)
    for layer in layers:
        if layer not in names:
            close = difflib.get_close_matches(layer, names, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ValueError(
                f"no layer {layer!r} in {network.name}; {hint}It has: {', '.join(names)}"
            )
    found: dict[str, Tensor] = {}
    output, last = images, ""
    for name, path in names.items():
        if len(found) == len(set(layers)):
            break
        module = network.get_submodule(path)
        if last in found and getattr(module, "inplace", False):
            output = output.clone()  # an in-place ReLU would overwrite what was asked for
        if last == "avgpool":
            output = output.flatten(1)
        output, last = module(output), name
        if name in layers:
            found[name] = output
    return {layer: found[layer] for layer in layers}


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Without dropout, and with batch normalisation's own statistics.

    A frozen part that was in evaluation mode already stays there afterwards.
    """
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _leaves(sequence: nn.Sequential, path: str) -> Iterator[tuple[str, nn.Module]]:
    for name, module in sequence.named_children():
        if isinstance(module, nn.Sequential):
            yield from _leaves(module, f"{path}.{name}")
        else:
            yield f"{path}.{name}", module


def _kind(module: nn.Module) -> str:
    for kind, of_type in _KINDS.items():
        if isinstance(module, of_type):
            return kind
    return type(module).__name__.lower()  # a module that someone put there: `gelu3_1`
