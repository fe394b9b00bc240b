"""What `vgglab.benchmarks.loading.loader` measured, for people and for programs."""

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from vgglab.benchmarks.loading.bottleneck import Bottleneck
from vgglab.benchmarks.loading.stages import STAGES
from vgglab.benchmarks.spread import measured_table, with_spread
from vgglab.text import plural


@dataclass(frozen=True)
class Round:
    """Images a second, and milliseconds an image of each stage."""

    loader: float
    """Up to cropped and mirrored uint8 pixels on the device."""
    reference: float
    """Likewise."""
    network: float
    """Of training steps, from pixels on the device on."""
    stages: dict[str, float]
    reference_stages: dict[str, float]
    load: float
    """The machine's load average over a minute before it: others' work slows all."""


@dataclass(frozen=True)
class LoaderSpeed:
    """All rounds, and of what."""

    rounds: list[Round]
    data: str
    batch_size: int
    """Of one process."""
    trained_batch_size: int
    """Of the training steps that were timed; on a CPU smaller."""
    workers: int
    image_bytes: float | None
    """Of an image as stored, mean; None: they are kept decoded."""
    cores: int
    """Of this machine, as of each node."""
    processes: int
    """Of a node, a device each; one of them was measured."""
    nodes: int
    model: str
    precision: str
    gpu: str | None
    cpu: str
    torch: str

    @property
    def ratio(self) -> list[float]:
        """The loader over the reference."""
        return [r.loader / r.reference for r in self.rounds]

    @property
    def bottleneck(self) -> Bottleneck:
        return Bottleneck(
            loader=statistics.median(r.loader for r in self.rounds),
            network=statistics.median(r.network for r in self.rounds),
            workers=self.workers,
            cores=self.cores,
            processes=self.processes,
            nodes=self.nodes,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        found = self.bottleneck
        return {
            **asdict(self),
            "ratio": statistics.median(self.ratio),
            "binds": found.binds,
            "data_wait_fraction": found.data_wait_fraction,
            "enough_workers": found.enough,
            "images_per_second": found.images_per_second,
        }

    def table(self) -> Table:
        """The loaders, their stages and the network; what binds stands below. 80 columns."""
        device = f"{self.gpu or 'the CPU'}, {plural(self.cores, 'core')}"
        source = f", {self.image_bytes / 1e3:.1f} KB an image" if self.image_bytes else ""
        load = [r.load for r in self.rounds]
        caption = (
            *self.bottleneck.lines(),
            *self._storage(),
            "",
            f"{self.data}{source}; {self.model}, batch {self.batch_size}, {self.precision};",
            *self._trained(),
            f"median (lowest to highest) of {len(self.rounds)} rounds;",
            f"{device} of {self.cpu}, torch {self.torch},",
            f"load average {min(load):.1f} to {max(load):.1f}",
        )
        table = measured_table("vgglab", "\n".join(caption))
        table.add_column("torchvision", justify="right")
        table.add_row(
            f"images/s, {plural(self.workers, 'worker') if self.workers else 'no workers'}",
            with_spread([r.loader for r in self.rounds], 0),
            with_spread([r.reference for r in self.rounds], 0),
        )
        table.add_row("ratio", with_spread(self.ratio, 2))
        table.add_row("images/s that train", with_spread([r.network for r in self.rounds], 1))
        table.add_section()
        table.add_row("ms an image, one core")
        for stage in STAGES:
            sides = ([r.stages for r in self.rounds], [r.reference_stages for r in self.rounds])
            if stage in sides[0][0]:
                shown = [with_spread([of[stage] for of in side], 2) for side in sides]
                table.add_row(f"  {stage}", *shown)
        return table

    def _trained(self) -> list[str]:
        if self.trained_batch_size == self.batch_size:
            return []
        return [f"its training steps were timed on batches of {self.trained_batch_size};"]

    def _storage(self) -> list[str]:
        if self.image_bytes is None:
            return []
        found = self.bottleneck
        needed = found.network * found.processes * self.image_bytes / 1e6
        return [
            f"The network's rate needs {needed:,.1f} MB/s of a node's storage. `read` is",
            "its time only where files are cold: known ones come from the cache.",
        ]
