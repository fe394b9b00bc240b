"""What one training step costs, by running the real step on fake tensors: no memory, no time.

Not counted: what an operation allocates within itself (cuDNN's workspace), the caching allocator's
rounding and fragmentation, the CUDA context, the collectives' buffers, and the normalisation of
the images, which is over before the forward pass begins. What callbacks, clipping and loss scaling
add, `vgglab.planning.planner` reckons.
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.optim import Optimizer
from torch.utils.module_tracker import ModuleTracker

from vgglab.errors import InputError
from vgglab.networks import VGG, DenseVGG, layer_names
from vgglab.planning.gpu_forms import FusedDropout, take_all_at_once
from vgglab.planning.ledger import Ledger, Phase, Work

MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]
Place = Literal["cuda", "cpu"]

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_DTYPE = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}


@dataclass(frozen=True)
class LayerCost:
    """One layer, for one micro-batch on one device."""

    name: str
    """The paper's (`conv3_3`); in a network that is not a VGG the module's path; `loss`; `input`,
    the change of the images' memory format and type; or the network's class, for what it computes
    outside its layers."""
    forward_flops: int
    """Two for a multiply and an add, of convolutions and matrix products alone."""
    backward_flops: int
    forward_bytes: int
    """Read and written by each operation, as eager execution does it: each operand once, in the
    precision it is in. Casts of the weights are a part of it."""
    backward_bytes: int
    parameter_bytes: int
    """As stored."""


@dataclass(frozen=True)
class StepCost:
    """Both passes of one micro-batch on one device, and the optimiser's step."""

    batch_size: int
    parameters: int
    """A count; all that follow are bytes."""
    parameter_bytes: int
    """With the buffers."""
    gradient_bytes: int
    optimizer_bytes: int
    """The optimiser's state, such as the momentum."""
    activation_bytes: int
    """What the forward pass made that is alive when the backward pass begins."""
    input_bytes: int
    """Images (float32) and labels."""
    passes_peak_bytes: int
    """The most that is alive at a time in both passes of any step but the first, all of the above
    included."""
    gradientless_peak_bytes: int
    """The same without any gradient, of the first micro-batch."""
    update_peak_bytes: int
    """The most that is alive at a time in the optimiser's step."""
    update_bytes: int
    """Read and written by the optimiser's step."""
    layers: list[LayerCost]
    """In forward order."""

    @property
    def peak_bytes(self) -> int:
        return max(self.passes_peak_bytes, self.update_peak_bytes)

    @property
    def forward_flops(self) -> int:
        return sum(layer.forward_flops for layer in self.layers)

    @property
    def backward_flops(self) -> int:
        return sum(layer.backward_flops for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Of the forward pass, an image: 15.470 G for VGG-16 at 224 pixels."""
        return self.forward_flops // (2 * self.batch_size)


def measure_step(
    make_network: Callable[[], nn.Module],
    image_shape: tuple[int, int, int],
    batch_size: int,
    num_classes: int,
    *,
    loss: nn.Module,
    make_optimizer: MakeOptimizer,
    precision: str = "32-true",
    channels_last: bool = True,
    accumulate: int = 1,
    place: Place = "cuda",
) -> StepCost:
    """Run the training step as Lightning does, on fake tensors, and count.

    The passes and the optimiser are the real code; only the kernels are left out. It is the second
    step that counts, when the optimiser has its state. The gradients of the step before live on
    until the forward pass is over, where Lightning drops them. Takes about a second, whatever the
    sizes, and no memory. torch.compile, which keeps and moves less, is not modelled.

    Args:
        make_network: (N, C, H, W) to logits (N, num_classes).
        image_shape: C, H, W.
        batch_size: images a device and micro-batch.
        num_classes: of the logits.
        loss: logits and labels (N,) to a scalar.
        make_optimizer: the trainable parameters to an optimiser.
        precision: Lightning's name.
        channels_last: the memory format of images and convolutions.
        accumulate: micro-batches a step.
        place: where it is to run; `vgglab.planning.gpu_forms` says what differs.

    Raises:
        InputError: the step fails, as on images that are too small for the network.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    dtype = _DTYPE.get(precision, torch.float32)
    with torch.device("meta"):
        network = make_network().train()
    network.to(dtype).to(memory_format=memory_format)
    names = _names(network, loss)
    forms = FusedDropout() if place == "cuda" else nullcontext()
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, forms, ModuleTracker() as modules, Ledger(modules, names) as ledger:
        network.to_empty(device="cpu")
        images = torch.empty(batch_size, *image_shape)
        labels = torch.empty(batch_size, dtype=torch.long)
        parameters = [p for p in network.parameters() if p.requires_grad]
        optimizer = make_optimizer(parameters)
        if place == "cuda":
            take_all_at_once(optimizer)

        def forward() -> Tensor:
            autocast = _AUTOCAST.get(precision)
            with torch.autocast("cpu", autocast, enabled=autocast is not None):
                value: Tensor = loss(network(images.to(dtype, memory_format=memory_format)), labels)
                return value

        def step() -> tuple[int, int, int, int]:
            ledger.restart_peak()
            gradients = ledger.numbers(p.grad for p in parameters)
            gradientless_peak = 0
            # The first micro-batch makes the gradients, all others add to them alike.
            for index in range(min(accumulate, 2)):
                ledger.work.clear()
                before = ledger.live
                with ledger.recording("forward", "input"):
                    value = forward()
                activation_bytes = ledger.live - before
                if index == 0:
                    optimizer.zero_grad()
                # torch's tracker does not see the loss's backward pass, where nothing precedes it.
                with ledger.recording("backward", "loss"):
                    value.backward()  # type: ignore[no-untyped-call]
                del value
                if index == 0:
                    gradients |= ledger.numbers(p.grad for p in parameters)
                    gradientless_peak = ledger.peak(without=gradients)
            passes_peak = ledger.peak()
            ledger.restart_peak()
            with ledger.recording("update", "update"):
                optimizer.step()
            return activation_bytes, passes_peak, gradientless_peak, ledger.peak()

        try:
            step()
        except (RuntimeError, ValueError) as error:
            size = "x".join(map(str, image_shape))
            raise InputError(f"no training step on images of {size}: {error}") from error
        activation_bytes, *peaks = step()
        return StepCost(
            batch_size=batch_size,
            parameters=sum(p.numel() for p in network.parameters()),
            parameter_bytes=_bytes([*network.parameters(), *network.buffers()]),
            gradient_bytes=_bytes(p.grad for p in parameters),
            optimizer_bytes=_bytes(v for state in optimizer.state.values() for v in state.values()),
            activation_bytes=activation_bytes,
            input_bytes=_bytes([images, labels]),
            passes_peak_bytes=peaks[0],
            gradientless_peak_bytes=peaks[1],
            update_peak_bytes=peaks[2],
            update_bytes=ledger.work["update", "update"].bytes,
            layers=_layers(network, names, ledger.work),
        )


def _names(network: nn.Module, loss: nn.Module) -> dict[str, str]:
    """Ours for the modules' names in `ModuleTracker`: a class and the path below it."""
    papers: dict[str, str] = {}
    if isinstance(network, VGG | DenseVGG):
        papers = {path: name for name, path in layer_names(network).items()}
    names = {_tracked(loss, path): "loss" for path, _ in loss.named_modules()}
    for path, _ in network.named_modules():
        names[_tracked(network, path)] = papers.get(path, path) or type(network).__name__
    return names


def _tracked(root: nn.Module, path: str) -> str:
    return f"{type(root).__name__}.{path}".removesuffix(".")


def _layers(
    network: nn.Module, names: dict[str, str], work: dict[tuple[str, Phase], Work]
) -> list[LayerCost]:
    stored = {
        names[_tracked(network, path)]: _bytes(module.parameters(recurse=False))
        for path, module in network.named_modules()
    }
    layers = []
    for name in dict.fromkeys(name for name, phase in work if phase != "update"):
        forward, backward = (work.get((name, phase), Work()) for phase in ("forward", "backward"))
        flops, moved = (forward.flops, backward.flops), (forward.bytes, backward.bytes)
        layers.append(LayerCost(name, *flops, *moved, stored.get(name, 0)))
    return layers


def _bytes(values: Iterable[Any]) -> int:
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


def largest_batch(
    peak_of: Callable[[int], int],
    memory_bytes: int,
    *,
    multiple_of: int = 1,
    most: int = 1_000_000_000,
) -> int:
    """The largest batch whose peak fits, by straight lines and bisection in turn.

    Args:
        peak_of: bytes that a batch needs; no less for more images. It is called about 5 times if it
            is nearly straight, and not more than 65 times.
        memory_bytes: what there is.
        multiple_of: the batch is to be a multiple of it.
        most: images that it may have, not less than `multiple_of`.

    Raises:
        InputError: not even `multiple_of` images fit.
    """
    least = peak_of(multiple_of)
    if least > memory_bytes:
        raise InputError(
            f"a batch of {multiple_of} needs {least / 2**30:.2f} GiB a device, which has "
            f"{memory_bytes / 2**30:.2f} GiB: more sharding, a lower precision or smaller images "
            "help"
        )
    fits, too_many, guess, bisects = 1, most // multiple_of + 1, 2, False
    while too_many - fits > 1:
        guess = min(max(guess, fits + 1), too_many - 1)
        peak = peak_of(guess * multiple_of)
        fits, too_many = (guess, too_many) if peak <= memory_bytes else (fits, guess)
        straight = 1 + (memory_bytes - least) * (guess - 1) // max(peak - least, 1)
        guess = (fits + too_many) // 2 if bisects else straight
        bisects = not bisects
    return fits * multiple_of
