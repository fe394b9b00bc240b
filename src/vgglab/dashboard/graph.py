"""The network as TensorBoard's graph: a box a layer, by the paper's names where it has them.

`SummaryWriter.add_graph` stands on `torch.jit.trace`, which is deprecated, computes three times
with the real weights, and draws every weight and constant. Here a twin without storage runs once
on the meta device, so that nothing is computed and the network is not touched.
"""

import copy
import logging
import re
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vgglab.data.attached import datamodule
from vgglab.networks import layer_names
from vgglab.networks.vgg import VGG
from vgglab.reporting.tensorboard import boards

if TYPE_CHECKING:
    from tensorboard.compat.proto.graph_pb2 import GraphDef

log = logging.getLogger(__name__)


class ModelGraph(Callback):
    """Draws the network, for one image of the run's data, on TensorBoard's page of graphs.

    Drawn by the first process before the strategy wraps or shards the network, so it is the same
    for all of them. A network that cannot run without storage (it looks at its values, say) has no
    graph, and the log says why.
    """

    def __init__(self) -> None:
        self._graph: GraphDef | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero or not boards(trainer):
            return
        network: nn.Module = pl_module.network  # type: ignore[assignment]
        preprocessing = datamodule(trainer).preprocessing
        shape = (preprocessing.channels, *preprocessing.size)
        try:
            self._graph = network_graph(network, shape)
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            reason = str(error).partition("\n")[0]
            log.warning(f"no graph of {type(network).__name__} for TensorBoard: {reason}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._graph is None:
            return
        for board in boards(trainer):
            if board.begins:
                board.write_graph(self._graph)


def network_graph(network: nn.Module, shape: Sequence[int]) -> "GraphDef":
    """What a network does with one image, in evaluation mode, for TensorBoard.

    A module without children is a node, and so is each operation outside of such modules (a
    `flatten`); other modules are the scopes. Each node carries its output's shape, its module's
    settings and its number of parameters.

    Args:
        network: (N, C, H, W) to any tensors. Its weights, mode and hooks stay as they are.
        shape: (C, H, W).

    Raises:
        RuntimeError, TypeError, ValueError, AttributeError: the network cannot be copied, or cannot
            run on torch's meta device.
    """
    twin = _twin(network).eval()
    image = torch.empty((1, *shape), device="meta", dtype=_dtype(twin))
    with ExitStack() as hooked, torch.no_grad():
        recorder = _Recorder(twin, image)
        for module in twin.modules():
            for hook in recorder.hooks(module):
                hooked.callback(hook.remove)
        with recorder:
            output = twin(image)
    return recorder.graph(output)


def _twin(network: nn.Module) -> nn.Module:
    """The same modules around tensors without storage."""
    tensors = (*network.parameters(), *network.buffers())
    empty: dict[int, Any] = {id(t): torch.empty_like(t, device="meta") for t in tensors}
    for parameter in network.parameters():
        empty[id(parameter)] = nn.Parameter(empty[id(parameter)], requires_grad=False)
    return copy.deepcopy(network, empty)


def _dtype(network: nn.Module) -> torch.dtype:
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which node made each tensor, and from what."""

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        paper = _paper_scopes(network) if isinstance(network, VGG) else {}
        self.scopes = {
            module: paper.get(path, path.replace(".", "/"))
            for path, module in network.named_modules()
        }
        self.inside: list[nn.Module] = []
        self.nodes: dict[str, dict[str, Any]] = {}
        self.maker: dict[int, str] = {}
        self.alive: list[Tensor] = []  # an id is used again once its tensor is gone
        self._note("input", "image", [], [image], {})

    def hooks(self, module: nn.Module) -> list[Any]:
        def enter(module: nn.Module, inputs: Any) -> None:
            self.inside.append(module)

        def leave(module: nn.Module, inputs: Any, outputs: Any) -> None:
            self.inside.pop()
            if not any(module.children()) and not isinstance(module, nn.Identity):
                own = [p.numel() for p in module.parameters()]
                details = {"settings": module.extra_repr(), "parameters": f"{sum(own):,}"}
                made = [t for t in tree_leaves(outputs) if isinstance(t, Tensor)]
                taken = [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]
                self._note(self.scopes[module], type(module).__name__, taken, made, details)

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.inside and any(self.inside[-1].children()):
            taken = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
            kind = func.overloadpacket.__name__
            scope = self.scopes[self.inside[-1]]
            self._note(f"{scope}/{kind}" if scope else kind, kind, taken, made, {})
        return result

    def _note(
        self, name: str, kind: str, taken: list[Tensor], made: list[Tensor], details: dict[str, str]
    ) -> None:
        base, count = name, 1
        while name in self.nodes:  # a module or operation that is used again
            count += 1
            name = f"{base}_{count}"
        sources = dict.fromkeys(self.maker[id(t)] for t in taken if id(t) in self.maker)
        shapes = [list(t.shape) for t in made]
        self.nodes[name] = {"op": kind, "input": list(sources), "shapes": shapes, **details}
        for tensor in made:
            self.maker[id(tensor)] = name
        self.alive += made

    def graph(self, output: Any) -> "GraphDef":
        from tensorboard.compat.proto.graph_pb2 import GraphDef
        from tensorboard.compat.proto.versions_pb2 import VersionDef

        made = [t for t in tree_leaves(output) if isinstance(t, Tensor)]
        self._note("output", "logits", made, made, {})
        nodes = [_node(name, **content) for name, content in self.nodes.items()]
        return GraphDef(node=nodes, versions=VersionDef(producer=22))


def _paper_scopes(network: VGG) -> dict[str, str]:
    """`stage1/conv1_1` for `features.0`, and `classifier/fc8` for `classifier.6`."""
    scopes = {}
    for name, path in layer_names(network).items():
        room, _, inner = path.partition(".")
        stage = re.search(r"\d", name)
        if room == "features" and stage is not None:
            room = f"stage{stage[0]}"
        scopes[path] = f"{room}/{name}" if inner else name
    return scopes


def _node(name: str, *, op: str, input: list[str], shapes: list[list[int]], **details: str) -> Any:
    from tensorboard.compat.proto.attr_value_pb2 import AttrValue
    from tensorboard.compat.proto.node_def_pb2 import NodeDef
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

    dims = [[TensorShapeProto.Dim(size=size) for size in shape] for shape in shapes]
    protos = [TensorShapeProto(dim=shape) for shape in dims]
    attributes = {"_output_shapes": AttrValue(list=AttrValue.ListValue(shape=protos))}
    for key, text in details.items():
        if text:
            attributes[key] = AttrValue(s=text.encode())
    return NodeDef(name=name, op=op, input=input, attr=attributes)
