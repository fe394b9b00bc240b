"""The argument of section 2.3 in numbers: several small kernels against one large."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch import nn

from vgglab.networks import receptive_field
from vgglab.networks.stacks import STACKS, build_stack
from vgglab.progress import each
from vgglab.reporting.environment import environment
from vgglab.reporting.summary import summarize

_WARM_UP = 2  # rounds: the first calls choose algorithms and allocate memory


@dataclass(frozen=True)
class StackRow:
    """One stack's reach and cost."""

    stack: str
    field: int
    """Side of the receptive field, pixels."""
    parameters: int
    """Without biases, as the paper counts."""
    mult_adds: int
    """For one image."""
    milliseconds: float
    """A forward pass of the batch: the median over the repeats."""
    spread: tuple[float, float]
    """The first and third quartile of the same."""


@dataclass(frozen=True)
class StackComparison:
    """What was measured, and on what."""

    channels: int
    size: int
    batch_size: int
    repeats: int
    device: str
    threads: int
    """Of the CPU; they matter where it is the device."""
    torch: str
    rows: list[StackRow]

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return asdict(self)

    def table(self) -> Table:
        """A line a stack; 80 columns suffice."""
        table = Table(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            caption=(
                f"{self.channels} channels in and out, {self.size}x{self.size} maps, "
                f"batches of {self.batch_size}; no biases\n"
                f"time: median (quartiles) of {self.repeats} interleaved forward passes, fp32,\n"
                f"{self.device}, {self.threads} threads, torch {self.torch}"
            ),
            caption_justify="left",
            caption_style="",
        )
        table.add_column("stack", no_wrap=True)
        for heading in ("sees", "parameters", "", "mult-adds (M)", "time (ms)"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.rows:
            low, high = row.spread
            table.add_row(
                row.stack,
                f"{row.field}x{row.field}",
                f"{row.parameters:,}",
                f"{row.parameters / self.channels**2:.0f} C²",
                f"{row.mult_adds / 1e6:,.1f}",
                f"{row.milliseconds:.1f} ({low:.1f} to {high:.1f})",
                end_section=len(STACKS[row.stack]) == 1,
            )
        return table


def compare_stacks(
    channels: int, size: int, batch_size: int, repeats: int, device: torch.device
) -> StackComparison:
    """Build the stacks of section 2.3, count what they cost and time them in turn.

    Args:
        channels: C, of input and output alike.
        size: height and width of the maps, pixels.
        batch_size: maps at once, for the time alone.
        repeats: forward passes of each stack; each round runs every stack once, so that a change
            in the machine's speed meets all of them.
        device: where to run, in fp32.
    """
    networks = {
        name: build_stack(kernels, channels).to(device).eval() for name, kernels in STACKS.items()
    }
    images = torch.randn(batch_size, channels, size, size, device=device)
    times = _times(networks, images, repeats)
    rows = []
    for name, network in networks.items():
        cost = summarize(network, (channels, size, size))
        first, median, third = _quartiles(times[name])
        rows.append(
            StackRow(
                name,
                receptive_field(network)[-1].size,
                cost.parameters,
                cost.mult_adds,
                median,
                (first, third),
            )
        )
    return StackComparison(
        channels=channels,
        size=size,
        batch_size=batch_size,
        repeats=repeats,
        device=_name(device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        rows=rows,
    )


@torch.inference_mode()
def _times(
    networks: Mapping[str, nn.Module], images: torch.Tensor, repeats: int
) -> dict[str, list[float]]:
    """Milliseconds of each forward pass."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    for turn in each(range(_WARM_UP + repeats), "stacks", unit="rounds"):
        for name, network in networks.items():
            _wait_for(images.device)
            start = time.perf_counter()
            network(images)
            _wait_for(images.device)
            if turn >= _WARM_UP:
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":  # the others only queue the work
        torch.accelerator.synchronize(device)


def _quartiles(values: list[float]) -> list[float]:
    if len(values) == 1:
        return values * 3
    return statistics.quantiles(values, n=4, method="inclusive")


def _name(device: torch.device) -> str:
    hardware = environment()["hardware"]
    is_cuda = device.type == "cuda"
    return str(hardware["gpus"][device.index or 0]["name"] if is_cuda else hardware["cpu"])
