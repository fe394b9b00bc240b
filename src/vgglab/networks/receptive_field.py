"""Theoretical receptive fields."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

from torch import fx, nn

from vgglab.networks.dense import DenseVGG
from vgglab.networks.layers import evaluation_mode, layer_names
from vgglab.networks.vgg import VGG

Axis = Literal["height", "width"]


class ReceptiveField(NamedTuple):
    """What one output of a layer sees of the image along an axis, in pixels."""

    name: str
    """The layer, in the paper's terms, or the path of the module in a network that is no VGG."""
    size: int
    """Length of the interval that one output depends on: the side of a square in a VGG."""
    jump: int
    """Distance between the intervals of neighbouring outputs."""
    start: float
    """Centre of the first output's interval, from the image's edge: the first pixel's is 0.5."""


def receptive_field(network: nn.Module, axis: Axis = "height") -> list[ReceptiveField]:
    """The receptive field of every convolution and pool, in forward order.

    Output i sees `start + i * jump - size / 2` to `start + i * jump + size / 2`, padding included.
    Whole numbers and halves, so floats hold them exactly. Where branches meet, by addition or
    concatenation, it is the smallest interval that holds those of all branches. The rows end
    before whatever sees the whole image or parts that depend on its size: an adaptive pool, a
    flattening, a squeeze-and-excitation block. The recurrences are those of Araujo et al. 2019,
    distill.pub/2019/computing-receptive-fields.

    Args:
        network: a VGG, its dense form, or any network that `torch.fx` can trace; the names are then
            its modules' paths. It is left as it was.
        axis: the two differ only where kernels are not square, as the 1x7 and 7x1 of Inception.

    Raises:
        ValueError: the network cannot be traced, holds an operation that may mix positions in a way
            not known here, or joins branches of different jumps; the message names the place.
    """
    along = get_args(Axis).index(axis)
    if isinstance(network, VGG | DenseVGG):
        return _of_a_chain(network, along)
    return _of_a_graph(network, along)


class _Interval(NamedTuple):
    """What the first output sees: `low` to `low + size`; the next one sees `jump` further."""

    low: int
    size: int
    jump: int

    def row(self, name: str) -> ReceptiveField:
        return ReceptiveField(name, self.size, self.jump, self.low + self.size / 2)


_PIXEL = _Interval(0, 1, 1)
_WHOLE = None  # the whole image, or parts that depend on its size

_Window = nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d
_POINTWISE_MODULES = (
    *(nn.Identity, nn.modules.batchnorm._BatchNorm, nn.LocalResponseNorm),
    *(nn.modules.dropout._DropoutNd, nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU),
    *(nn.Mish, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus),
)
_WHOLE_MODULES = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten)
_POINTWISE = (
    *("relu", "relu_", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "hardtanh"),
    *("hardswish", "hardsigmoid", "sigmoid", "tanh", "dropout", "dropout2d", "stochastic_depth"),
    *("add", "add_", "iadd", "sub", "isub", "mul", "mul_", "imul", "truediv", "batch_norm"),
    *("contiguous", "clone", "channel_shuffle"),
)
_WHOLE_FUNCTIONS = ("adaptive_avg_pool2d", "adaptive_max_pool2d", "flatten")
_ALONG_CHANNELS = {"cat": 1, "concat": 1, "unsqueeze": 1, "chunk": 2, "split": 2}
"""Where these functions take `dim`; along the channels they leave positions alone."""
_POOLS = {"max_pool2d": nn.MaxPool2d, "avg_pool2d": nn.AvgPool2d}


def _of_a_chain(network: VGG | DenseVGG, along: int) -> list[ReceptiveField]:
    rows = []
    seen = _PIXEL
    for name, path in layer_names(network).items():
        module = network.get_submodule(path)
        after = _after_module(name, module, seen, along)
        if after is _WHOLE:
            break
        if isinstance(module, _Window):
            rows.append(after.row(name))
        seen = after
    return rows


def _of_a_graph(network: nn.Module, along: int) -> list[ReceptiveField]:
    graph, names = trace(network)
    seen: dict[fx.Node, _Interval | None] = {}
    rows = []
    for node in graph.nodes:
        name = names.get(node, node.name)
        inputs = [seen[before] for before in node.all_input_nodes if before in seen]
        operation = network.get_submodule(node.target) if node.op == "call_module" else None
        if node.op == "placeholder":
            seen[node] = _PIXEL
        elif not inputs or node.op == "output":
            continue  # parameters and numbers: nothing of the image
        elif _WHOLE in inputs:
            seen[node] = _WHOLE
        else:
            joined = _union(name, [interval for interval in inputs if interval is not None])
            if operation is None:
                operation = _pool_of(node)
            if operation is not None:
                seen[node] = _after_module(name, operation, joined, along)
            else:
                seen[node] = _after_function(name, node, joined)
            after = seen[node]
            if isinstance(operation, _Window) and after is not None:
                rows.append(after.row(name))
    return rows


def _after_module(name: str, module: nn.Module, seen: _Interval, along: int) -> _Interval | None:
    if isinstance(module, _Window):
        return _after_window(module, seen, along)
    if isinstance(module, _POINTWISE_MODULES):
        return seen
    if isinstance(module, _WHOLE_MODULES):
        return _WHOLE
    raise _unknown(name, type(module).__name__)


def _after_window(window: _Window, seen: _Interval, along: int) -> _Interval:
    kernel, dilation, stride = (
        value if isinstance(value, int) else int(value[along])
        for value in (window.kernel_size, getattr(window, "dilation", 1), window.stride)
    )
    reach = dilation * (kernel - 1)
    padding: Any = window.padding
    if isinstance(padding, str):
        padding = reach // 2 if padding == "same" else 0  # torch pads the odd one at the end
    elif not isinstance(padding, int):
        padding = padding[along]
    return _Interval(
        seen.low - padding * seen.jump, seen.size + reach * seen.jump, seen.jump * stride
    )


def _after_function(name: str, node: fx.Node, seen: _Interval) -> _Interval | None:
    function = _function_of(node)
    if function in _POINTWISE:
        return seen
    if function in _WHOLE_FUNCTIONS:
        return _WHOLE
    if function == "mean" and set(_argument(node, 1, "dim") or ()) in ({2, 3}, {-1, -2}):
        return _WHOLE
    if function in _ALONG_CHANNELS:
        if _argument(node, _ALONG_CHANNELS[function], "dim") in (1, -3):
            return seen
    elif function == "getitem":  # of a list, or of images and channels
        index = node.args[1]
        if not isinstance(index, tuple) or len(index) <= 2:
            return seen
    raise _unknown(name, function)


def _pool_of(node: fx.Node) -> nn.Module | None:
    """The module that does what a functional pool does; its arguments have the same order."""
    pool = _POOLS.get(_function_of(node))
    if pool is None:
        return None
    arguments: Any = node.args[1:]
    named: Any = {name: value for name, value in node.kwargs.items() if name != "input"}
    return pool(*arguments, **named)


def _union(name: str, intervals: Sequence[_Interval]) -> _Interval:
    jumps = {interval.jump for interval in intervals}
    if len(jumps) > 1:
        raise ValueError(f"{name} joins maps whose outputs are {sorted(jumps)} pixels apart")
    low = min(interval.low for interval in intervals)
    high = max(interval.low + interval.size for interval in intervals)
    return _Interval(low, high - low, jumps.pop())


def _function_of(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else node.target.__name__


def _argument(node: fx.Node, position: int, name: str) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)


def _unknown(name: str, operation: str) -> ValueError:
    return ValueError(
        f"{name}: which positions {operation} mixes is not known here, so the receptive fields "
        "after it are not either"
    )


def trace(network: nn.Module) -> tuple[fx.Graph, dict[fx.Node, str]]:
    """The operations of a forward pass in eval mode, and the name of each in `receptive_field`.

    Raises:
        ValueError: the forward pass depends on the values of its input.
    """
    # A second of imports that a VGG does not need.
    from torchvision.models.feature_extraction import NodePathTracer
    from torchvision.models.shufflenetv2 import channel_shuffle

    # The shuffle is kept whole: its views and transposes alone do not show that positions stay.
    tracer = NodePathTracer(autowrap_functions=(channel_shuffle,))
    with evaluation_mode(network):  # auxiliary classifiers are used in training alone
        try:
            graph = tracer.trace(network)
        except (fx.proxy.TraceError, TypeError) as error:
            raise ValueError(f"cannot trace {type(network).__name__}: {error}") from error
    return graph, dict(tracer.node_to_qualname)
