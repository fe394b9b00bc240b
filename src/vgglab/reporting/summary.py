"""What a network is made of: shapes, parameters, cost, memory."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import torch
import torchinfo
from rich import box
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vgglab.errors import InputError
from vgglab.networks import VGG, DenseVGG, layer_names
from vgglab.networks.layers import evaluation_mode

# Their output is their input's memory in a forward pass without gradients.
_PASSES_ON = (nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d)


@dataclass(frozen=True)
class LayerRow:
    """A layer, in the order of first use; one that is used twice has one row."""

    name: str
    """The paper's (`conv3_3`) for a VGG, else the module's path."""
    type: str
    output: tuple[int, ...] | None
    """Its shape without the batch; None for a layer that the forward pass does not use."""
    parameters: int
    mult_adds: int


@dataclass(frozen=True)
class ModelSummary:
    """The cost of one image; the numbers of the rows add up to the totals."""

    input_size: tuple[int, int, int]
    rows: list[LayerRow]
    parameters: int
    trainable: int
    mult_adds: int
    parameter_bytes: int
    activation_bytes: int
    """Of the outputs of all layers together, without those that are in place."""

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return asdict(self)

    def table(self) -> Table:
        """The layers that compute or change a shape, and the totals; 80 columns suffice."""
        totals = (
            f"{self.parameters:,} parameters, {self.trainable:,} trainable\n"
            f"{self.mult_adds / 1e9:.3f} billion multiply-adds an image\n"
            f"{_mebibytes(self.parameter_bytes)} of parameters, "
            f"{_mebibytes(self.activation_bytes)} of activations an image"
        )
        table = Table(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            caption=totals,
            caption_justify="left",
            caption_style="",
        )
        for heading in ("layer", "type"):
            table.add_column(heading, no_wrap=True)
        for heading in ("output", "parameters", "mult-adds (M)"):
            table.add_column(heading, justify="right", no_wrap=True)
        shape: tuple[int, ...] | None = self.input_size
        table.add_row("input", "", _sides(shape), "", "")
        for row in self.rows:
            if row.parameters or row.mult_adds or row.output != shape:
                table.add_row(
                    row.name,
                    row.type,
                    _sides(row.output),
                    f"{row.parameters:,}" if row.parameters else "",
                    f"{row.mult_adds / 1e6:,.2f}" if row.mult_adds else "",
                )
            shape = row.output
        return table


def summarize(network: nn.Module, input_size: tuple[int, int, int]) -> ModelSummary:
    """Run `network` once in eval mode on one black image and describe its layers.

    The network, its modes and buffers, and the random state are afterwards what they were.

    Multiply-adds are those of convolutions and matrix products alone, without biases,
    normalisation, activations and pools: half of what `torch.utils.flop_counter` counts, the
    convention of torchvision's model table (VGG-16: 15.470 billion at 224) and of most papers.
    (torchinfo's own figure adds one per bias and output: 15.484 billion.)

    Args:
        network: takes (1, channels, height, width).
        input_size: channels, height, width in pixels.

    Raises:
        InputError: the network cannot take an image of this size.
    """
    first = next(chain(network.parameters(), network.buffers()), torch.empty(0))
    image = torch.zeros(1, *input_size, device=first.device, dtype=first.dtype)
    flops = FlopCounterMode(display=False)
    with evaluation_mode(network), _left_as_it_was(network, first.device), flops:
        try:
            seen = torchinfo.summary(
                network, input_data=image, device=first.device, mode="eval", verbose=0
            ).summary_list
        except RuntimeError as error:
            cause = error.__cause__
            if not isinstance(cause, RuntimeError | ValueError):
                raise
            size = "x".join(map(str, input_size))
            raise InputError(f"the network cannot take an image of {size}: {cause}") from cause
    layers = [info for info in seen if not info.is_recursive and info.executed]
    rows = _rows(network, layers, _mult_adds(network, flops))
    parameters = list(network.parameters())
    return ModelSummary(
        input_size=input_size,
        rows=rows,
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        mult_adds=flops.get_total_flops() // 2,
        parameter_bytes=sum(p.numel() * p.element_size() for p in parameters),
        activation_bytes=sum(info.output_bytes for info in layers if _makes_output(info)),
    )


@contextmanager
def _left_as_it_was(network: nn.Module, device: torch.device) -> Iterator[None]:
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def _mult_adds(network: nn.Module, flops: FlopCounterMode) -> Counter[str]:
    """By module path, without those of its children."""
    root = type(network).__name__
    counts: Counter[str] = Counter()
    for path, by_operation in flops.get_flop_counts().items():
        if path != root and not path.startswith(f"{root}."):
            continue  # "Global", their sum
        name = path.removeprefix(root).removeprefix(".")
        counts[name] += sum(by_operation.values()) // 2
        if name:
            counts[name.rpartition(".")[0]] -= sum(by_operation.values()) // 2
    return counts


def _rows(network: nn.Module, layers: list[Any], mult_adds: Counter[str]) -> list[LayerRow]:
    paths = {id(module): path for path, module in network.named_modules()}
    names: dict[str, str] = {}
    if isinstance(network, VGG | DenseVGG):
        names = {path: name for name, path in layer_names(network).items()}
    outputs = {paths[info.layer_id]: tuple(info.output_size[1:]) for info in layers}
    unused = [path for path in paths.values() if path not in outputs]
    counted: set[int] = set()
    rows = []
    for path in (*outputs, *unused):
        module = network.get_submodule(path)
        own = [p for p in module.parameters(recurse=False) if id(p) not in counted]
        counted.update(map(id, own))
        parameters = sum(p.numel() for p in own)
        is_layer = path in outputs and not any(module.children())
        if is_layer or parameters or mult_adds[path]:
            name = names.get(path, path or type(network).__name__)
            kind = type(module).__name__.lstrip("_")
            rows.append(LayerRow(name, kind, outputs.get(path), parameters, mult_adds[path]))
    return rows


def _makes_output(info: Any) -> bool:
    in_place = getattr(info.module, "inplace", False) or isinstance(info.module, _PASSES_ON)
    return info.is_leaf_layer and not in_place


def _sides(shape: tuple[int, ...] | None) -> str:
    return "not used" if shape is None else " x ".join(map(str, shape))


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
