"""Whether the loader or the network limits training, from what each of them does alone."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Bottleneck:
    """One process's loader against one device's network, where several share a node's cores."""

    loader: float
    """Images/s of one process's loader, measured while the node had nothing else to do."""
    network: float
    """Images/s of one device's training steps, likewise."""
    workers: int
    """Of one process's loader. 0: the training process loads, and the network waits for it."""
    cores: int
    """Of a node."""
    processes: int
    """Of a node, a device each."""
    nodes: int = 1

    @property
    def busy(self) -> int:
        """Cores that one process's loader kept busy when it was measured."""
        return min(max(self.workers, 1), self.cores)

    @property
    def shared_loader(self) -> float:
        """Images/s of each loader when all processes of a node load at the same time."""
        return self.loader * min(1.0, self.cores / (self.processes * self.busy))

    @property
    def binds(self) -> str:
        """`loader` or `network`: the slower one."""
        return "loader" if self.shared_loader < self.network else "network"

    @property
    def images_per_second(self) -> float:
        """Of all devices of all nodes. The exchange of gradients and unlike nodes are left out."""
        if self.workers:
            one = min(self.shared_loader, self.network)
        else:
            one = 1 / (1 / self.shared_loader + 1 / self.network)
        return one * self.processes * self.nodes

    @property
    def data_wait_fraction(self) -> float:
        """Of a step's time, as `throughput/data_wait_fraction` of a run."""
        return 1 - self.images_per_second / (self.network * self.processes * self.nodes)

    @property
    def enough(self) -> int:
        """Workers of one process that keep up with the network, a core each."""
        return math.ceil(self.network / (self.loader / self.busy))

    def lines(self) -> list[str]:
        """The verdict, for people; at most 70 characters each."""
        world = self.processes * self.nodes
        processes = f"{world} process{'es' if world > 1 else ''}"
        wait = 100 * self.data_wait_fraction
        found = [
            f"The {self.binds} binds at {processes}: a device trains "
            f"{_shown(self.network)} images/s,",
            f"its loader gives {_shown(self.shared_loader)}; "
            f"{wait:.0f} % of a step is waiting for data.",
        ]
        if self.shared_loader < self.loader:
            found.append(
                f"Alone it gives {_shown(self.loader)}, but {self.processes} share "
                f"{self.cores} cores."
            )
        if not self.workers and wait < 1:
            return [*found, "Enough: no workers."]
        needed = self.enough * self.processes
        workers = f"{self.enough} worker{'s' if self.enough > 1 else ''} a process"
        more = f" ({needed} a node, of {self.cores} cores)" if self.processes > 1 else ""
        found.append(f"Enough: {workers}{more}.")
        if needed > self.cores:
            found.append("The node has too few cores; pre-resized shards need less.")
        return found


def _shown(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
