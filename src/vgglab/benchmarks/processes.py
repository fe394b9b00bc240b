"""Several processes on the CPU against one: what the exchange of gradients costs.

Each process is pinned to a core of its own. In each round the first process trains alone, while
the others wait; then all train at the same time, each a network of its own; then all train one
together. A change in the machine's speed meets all three, and what cores that share a memory and
its caches take from each other is told apart from what the exchange takes.
"""

import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from vgglab.benchmarks.spread import measured_table, with_spread
from vgglab.config.benchmark_jobs import ProcessesBenchmark
from vgglab.errors import InputError
from vgglab.progress import each
from vgglab.reporting.environment import environment

_CLASSES = 10
_WARM_UP = 2  # steps: buckets are laid out after the first


@dataclass(frozen=True)
class Scaling:
    """Images a second, round by round."""

    model: str
    parameters: int
    size: int
    batch_size: int
    """Of one process."""
    processes: int
    steps: int
    alone: list[float]
    apart: list[float]
    together: list[float]
    load: list[float]
    """The machine's load average over a minute, before each round: others' work slows both."""
    cpu: str
    torch: str

    @property
    def scaling(self) -> list[float]:
        """Together over as many times one."""
        pairs = zip(self.together, self.alone, strict=True)
        return [together / (self.processes * alone) for together, alone in pairs]

    @property
    def exchange(self) -> list[float]:
        """Together over what they do at the same time without a word."""
        return [both / each for both, each in zip(self.together, self.apart, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        ratios = {"scaling": self.scaling, "exchange": self.exchange}
        return {**asdict(self), **{name: statistics.median(of) for name, of in ratios.items()}}

    def table(self) -> Table:
        """A line for each; 80 columns suffice."""
        caption = (
            f"{self.model}, {self.parameters:,} parameters, {self.size} px,\n"
            f"{self.batch_size} images a step and process, fp32, gloo;\n"
            f"median (lowest to highest) of {len(self.alone)} rounds of {self.steps} steps;\n"
            f"a core of {self.cpu} each, torch {self.torch},\n"
            f"load average {min(self.load):.1f} to {max(self.load):.1f}"
        )
        table = measured_table("images/s", caption)
        table.add_row("one process", with_spread(self.alone, 1))
        number = self.processes
        table.add_row(f"{number} processes, a network each", with_spread(self.apart, 1))
        table.add_row(f"{number} processes, one network", with_spread(self.together, 1))
        table.add_section()
        table.add_row(f"the last over {number} times the first", with_spread(self.scaling, 3))
        table.add_row("the last over the second", with_spread(self.exchange, 3))
        return table


def measure_processes(job: ProcessesBenchmark) -> Scaling:
    """Time training steps of one process and of several.

    Raises:
        InputError: there are fewer cores than processes, or no way to pin processes to them.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise InputError("target=processes pins processes to cores, as only Linux offers")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < job.processes:
        raise InputError(f"processes={job.processes}, but there are {len(cores)} cores to pin to")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    network = job.model.build_for(_CLASSES, 3)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.pt")
        spawn(  # type: ignore[no-untyped-call]
            _process, args=(job, network, cores, port, result), nprocs=job.processes
        )
        measured = torch.load(result, weights_only=True)
    return Scaling(
        model=str(job.model.arguments.get("name", job.model.target)),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        size=job.size,
        batch_size=job.batch_size,
        processes=job.processes,
        steps=job.steps,
        cpu=environment()["hardware"]["cpu"],
        torch=torch.__version__,
        **measured,
    )


def _process(
    rank: int,
    job: ProcessesBenchmark,
    network: nn.Module,
    cores: list[int],
    port: int,
    result: Path,
) -> None:
    os.sched_setaffinity(0, {cores[rank]})
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=job.processes
    )
    # As vgglab.cluster.strategies.
    network.to(memory_format=torch.channels_last)
    alone = _stepper(deepcopy(network), job)
    parallel = DistributedDataParallel(network, gradient_as_bucket_view=True, static_graph=True)
    together = _stepper(parallel, job)
    rates: dict[str, list[float]] = {"alone": [], "apart": [], "together": [], "load": []}
    turns = range(job.rounds + 1)
    for turn in each(turns, "rounds", unit="rounds") if rank == 0 else turns:
        measured = {"load": os.getloadavg()[0]}
        distributed.barrier()
        measured["alone"] = _rate(alone, job) if rank == 0 else 0.0
        distributed.barrier()
        measured["apart"] = job.processes * _rate(alone, job)
        distributed.barrier()
        measured["together"] = job.processes * _rate(together, job)
        for name, value in measured.items() if turn else ():  # the first round is the warm-up
            rates[name].append(value)
    if rank == 0:
        torch.save(rates, result)
    distributed.destroy_process_group()


def _stepper(network: nn.Module, job: ProcessesBenchmark) -> Callable[[], None]:
    images: Tensor = torch.randn(job.batch_size, 3, job.size, job.size)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(_CLASSES, (job.batch_size,))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        loss: Any = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()

    return step


def _rate(step: Callable[[], None], job: ProcessesBenchmark) -> float:
    """Images a second of this process."""
    for _ in range(_WARM_UP):
        step()
    start = time.perf_counter()
    for _ in range(job.steps):
        step()
    return job.steps * job.batch_size / (time.perf_counter() - start)
