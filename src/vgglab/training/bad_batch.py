"""A batch whose loss or gradients are not finite: kept in a file, and replayed alone."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vgglab.config.schema import Loss
from vgglab.errors import InputError
from vgglab.evaluation.trained import load_trained
from vgglab.files import replacing
from vgglab.networks import VGG, layer_names
from vgglab.networks.weights import PREFIX, read_checkpoint
from vgglab.training.classifier import seed_network
from vgglab.training.optim import is_sharded, local_part

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_DTYPE = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}


@dataclass(frozen=True)
class BadBatch:
    """A batch whose loss or gradients are not finite, as the network saw it."""

    images: Tensor
    """(N, C, H, W), augmented and normalised."""
    labels: Tensor
    """(N,) or, mixed, (N, classes)."""
    indices: list[int]
    """The images' in the training set."""
    step: int
    epoch: int
    batch: int
    rank: int
    lr: float
    seed: int
    loss: float
    loss_scale: float
    """What the loss was multiplied by before the backward pass."""
    gradients: list[str]
    """Parameters whose gradients are not finite."""
    device: str

    @property
    def position(self) -> str:
        where = f"epoch {self.epoch}, batch {self.batch}, counted from 0"
        images = _listed([str(index) for index in self.indices])
        return f"step {self.step} ({where}; training images {images}; lr {self.lr:g})"

    @property
    def finding(self) -> str:
        if math.isfinite(self.loss):
            return f"non-finite gradient of {_listed(self.gradients)}"
        return f"non-finite loss ({self.loss})"


def write_bad_batch(
    path: Path, card: dict[str, Any], state: dict[str, Tensor], bad: BadBatch
) -> str:
    """Write a file that `load_trained` takes too; says where it is, or why it is not."""
    if is_sharded(state.values()):
        return "its batch could not be written: the weights lie in parts on several devices"
    content = {
        "vgglab": card,
        "state_dict": {PREFIX + name: value.cpu() for name, value in state.items()},
        "nonfinite": {**vars(bad), "images": bad.images.cpu(), "labels": bad.labels.cpu()},
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # what went wrong before must not be hidden
        return f"its batch could not be written: {error}"
    return f"scripts/replay.py batch={path} runs it again"


@dataclass(frozen=True)
class Replay:
    """What the one step of a bad batch did when it was run again."""

    bad: BadBatch
    device: str
    loss: float
    where: str | None
    """The first number that is not finite; None if all are."""
    layers: dict[str, float]
    """The largest magnitude in each layer's output, in forward order."""

    def lines(self) -> list[str]:
        """For people."""
        shown = []
        for name, value in self.layers.items():
            shown.append(f"{name} {value:.3g}")
            if not math.isfinite(value):
                break
        return [
            f"{self.bad.finding} at {self.bad.position}",
            f"replayed on {self.device}: loss {self.loss:g}, it was {self.bad.loss:g}",
            f"the first number that is not finite: {self.where or 'none'}",
            f"largest outputs: {', '.join(shown)}",
        ]


def replay_batch(path: str | Path, allowed_targets: Sequence[str] = ()) -> Replay:
    """Run the one step of a file in `RUN/nonfinite` again, with its weights and dropout masks.

    The first number that is not finite is looked for in the weights and images, then the layers'
    outputs, the loss, and the gradients from the last parameter to the first, as the backward pass
    meets them. In a run of several processes the gradients are this batch's own.

    Args:
        path: the file. Where its device is missing the CPU is used, whose dropout masks and
            rounding differ.
        allowed_targets: see `vgglab.config.components`.

    Raises:
        InputError: the file cannot be used.
    """
    path = Path(path)
    content = read_checkpoint(path)
    try:
        bad = BadBatch(**content["nonfinite"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a batch that stopped a run, as in RUN/nonfinite"
        ) from error
    trained = load_trained(path, allowed_targets)
    loss: nn.Module = (
        Loss.model_validate(trained.config["loss"]).checked("loss", allowed_targets).build("loss")
    )
    return _replayed(bad, trained.network, loss, trained.config["trainer"])


def _replayed(bad: BadBatch, network: nn.Module, loss: nn.Module, how: dict[str, Any]) -> Replay:
    on_gpu = bad.device == "cuda" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu", 0)
    memory_format = torch.channels_last if how["channels_last"] else torch.contiguous_format
    dtype = _DTYPE.get(how["precision"], torch.float32)
    network.train().to(device, dtype).to(memory_format=memory_format)
    loss.to(device)
    images = bad.images.to(device, dtype, memory_format=memory_format)
    layers = _watched(network)
    seed_network(bad.seed, (bad.epoch, bad.batch, bad.rank), device)
    autocast = _AUTOCAST.get(how["precision"])
    with torch.autocast(device.type, autocast, enabled=autocast is not None):
        value = loss(network(images), bad.labels.to(device))
    where = _first_before_loss(bad, network, layers)
    if where is None and not is_finite(value):
        where = "the loss"
    if where is None:
        (value * bad.loss_scale).backward()
        gradients = [name for name, gradient in gradients_of(network) if not is_finite(gradient)]
        where = f"the gradient of {gradients[-1]}" if gradients else None
    return Replay(bad, device.type, float(value.detach()), where, layers)


def _watched(network: nn.Module) -> dict[str, float]:
    """Filled by a forward pass: the largest magnitude in each layer's output, by its name."""
    layers: dict[str, float] = {}
    names = _names(network)

    def watch(path: str, module: nn.Module) -> None:
        def note(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            layers[names.get(path, path)] = float(output.detach().abs().max())

        module.register_forward_hook(note)

    for path, module in network.named_modules():
        if not list(module.children()):
            watch(path, module)
    return layers


def _first_before_loss(bad: BadBatch, network: nn.Module, layers: dict[str, float]) -> str | None:
    for name, parameter in network.named_parameters():
        if not is_finite(parameter):
            return f"the weights before the step, {_called(name, network)}"
    broken = [
        str(index)
        for index, image in zip(bad.indices, bad.images, strict=True)
        if not is_finite(image)
    ]
    if broken:
        return f"the input, training images {_listed(broken)}"
    for name, largest in layers.items():
        if not math.isfinite(largest):
            return f"the output of {name}"
    return None


def gradients_of(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            yield _called(name, network), local_part(parameter.grad)


def is_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def _called(parameter: str, network: nn.Module) -> str:
    """`conv1_1.weight` for `features.0.weight`, in networks whose layers have such names."""
    path, _, kind = parameter.rpartition(".")
    return f"{_names(network).get(path, path)}.{kind}"


def _names(network: nn.Module) -> dict[str, str]:
    if not isinstance(network, VGG):
        return {}
    return {path: name for name, path in layer_names(network).items()}


def _listed(things: Sequence[str]) -> str:
    more = f" and {len(things) - 4} more" if len(things) > 4 else ""
    return ", ".join(things[:4]) + more
