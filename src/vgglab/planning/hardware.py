"""What a machine can do (conf/hardware): figures with their sources, and what follows from them."""

from collections.abc import Iterator
from math import floor, log2
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from vgglab.config.errors import explain_validation
from vgglab.config.schema import Section
from vgglab.errors import InputError

_GB = 1e9
_US = 1e-6
# Lightning's precisions, each with the formats whose matrix rate is used, the first that there is.
# torch lets convolutions take TF32 for float32 unless told otherwise
# (torch.backends.cudnn.allow_tf32).
_FORMATS = {
    "32-true": ("tf32", "fp32"),
    "bf16-mixed": ("bf16",),
    "bf16-true": ("bf16",),
    "16-mixed": ("fp16",),
    "16-true": ("fp16",),
}
# NCCL's own prediction for its Simple protocol, src/graph/tuning.cc: what starting a collective
# takes, and what is left of the bandwidth when a tree sums in place of a ring.
_START = 8.4 * _US
_TREE_RATE = 0.92


class Figure(Section):
    """A number and where it comes from."""

    value: PositiveFloat
    source: Annotated[str, Field(min_length=1)]
    """A document and, of a derived number, the arithmetic; or `assumption: ...` and the reason."""

    @property
    def is_assumed(self) -> bool:
        return self.source.startswith("assumption")


class Count(Figure):
    """The same of what can be counted."""

    value: PositiveInt


class Link(Section):
    """A way between two devices of a node."""

    gb_s: Figure
    """10^9 bytes a second and device, one way, while the other way is as busy."""
    latency_us: Figure
    """Of one round of a ring."""


class Network(Section):
    """The way between nodes."""

    gb_s: Figure
    """10^9 bytes a second and port, one way, while the other way is as busy."""
    ports: Count
    """Of a node. A device uses one at a time; more devices than ports share them."""
    latency_us: Figure
    """Of one round of a ring."""


class Rates(Section):
    """10^12 floating-point operations a second, dense, with float32 sums; None without hardware."""

    fp32: Figure
    tf32: Figure | None
    bf16: Figure | None
    fp16: Figure | None


class Hardware(Section):
    """conf/hardware: a device, the node it sits in and the network between nodes."""

    name: str
    place: Literal["cuda", "cpu"]
    """Whose kernels run; see `vgglab.planning.footprint.measure_step`."""
    node_devices: Count
    memory_gib: Figure
    """2^30 bytes. A datasheet's GB count as such, though a driver shows up to some percent less."""
    reserved_gib: Figure
    """Of it, what no tensor gets: that, contexts, workspaces, collectives' buffers,
    fragmentation."""
    memory_gb_s: Figure
    matrix_tflops: Rates
    attainable: Figure | None
    """The part of a matrix rate that was measured, of the precision that `source` names; it stands
    for the others too. None if nobody measured, which counts as all."""
    link: Link
    """Within a node."""
    network: Network
    host_gb_s: Figure
    """From the host's memory to a device."""
    storage_gb_s: Figure
    """What a node can read."""

    @property
    def devices_per_node(self) -> int:
        return self.node_devices.value

    @property
    def usable_bytes(self) -> int:
        """Of a device's memory, for tensors."""
        return int((self.memory_gib.value - self.reserved_gib.value) * 2**30)

    @property
    def memory_rate(self) -> float:
        """Bytes a second."""
        return self.memory_gb_s.value * _GB

    def matrix_rate(self, precision: str) -> float:
        """Attainable floating-point operations a second; a multiply-add is two.

        Args:
            precision: Lightning's name.

        Raises:
            InputError: the hardware has no such arithmetic.
        """
        for name in _FORMATS.get(precision, ()):
            peak: Figure | None = getattr(self.matrix_tflops, name)
            if peak is not None:
                attainable = 1.0 if self.attainable is None else self.attainable.value
                return attainable * peak.value * 1e12
        known = [p for p, names in _FORMATS.items() if any(map(self._has, names))]
        raise InputError(
            f"trainer.precision={precision}: {self.name} has no such arithmetic; "
            f"choices: {', '.join(known)}"
        )

    def collective_seconds(
        self, kind: str, wire_bytes: float, devices: int, nodes: int = 1, busy: int | None = None
    ) -> float:
        """How long a collective takes, as NCCL predicts it for its Simple protocol
        (src/graph/tuning.cc).

        A ring, or for `all_reduce` a tree where that is faster, as on many nodes; a tree's rounds
        count as a ring's. Small collectives take less: NCCL has quicker protocols for them (LL),
        which are not in it. On 4 nodes of 8 a tree starts within 112 us by this.

        Args:
            kind: `all_reduce`, which goes round twice, or another, which does so once.
            wire_bytes: what one device sends by the ring algorithm.
            devices: of the group.
            nodes: that the group is on, with as many devices on each.
            busy: devices of each node that send between nodes at the same time, in this group or in
                others; those of this group if None.
        """
        if devices == 1:
            return 0.0
        passes = 2 if kind == "all_reduce" else 1
        rounds, crossings = passes * (devices - 1), passes * (nodes - 1)
        local = devices // nodes
        near, far = (way.latency_us.value * _US for way in (self.link, self.network))
        bandwidth = self.bandwidth(local, nodes, busy)
        start = _START + (rounds - crossings) * near + crossings * far
        ring = start + wire_bytes / bandwidth
        if kind != "all_reduce":
            return ring
        size = wire_bytes * devices / rounds
        start = _START + 2 * ((local - 1) * near + floor(log2(nodes)) * far)
        return min(ring, start + 2 * size / (_TREE_RATE * bandwidth))

    def bandwidth(self, local: int, nodes: int, busy: int | None = None) -> float:
        """Bytes a second that each device of a ring can send.

        Args:
            local: devices of the group on each node; where the ring crosses nodes, each of them has
                a port, or its share of one.
            nodes: that the group is on.
            busy: as in `collective_seconds`.
        """
        ways = [self.link.gb_s.value] if local > 1 else []
        if nodes > 1:
            share = min(1.0, self.network.ports.value / (busy or local))
            ways.append(local * share * self.network.gb_s.value)
        return min(ways) * _GB

    def assumptions(self) -> list[str]:
        """The settings whose figures are assumed, by their full names."""
        return [name for name, figure in _figures(self, "hardware") if figure.is_assumed]

    def _has(self, name: str) -> bool:
        return getattr(self.matrix_tflops, name) is not None


def parse_hardware(settings: object) -> Hardware:
    """The composed group `hardware` as a typed object.

    Raises:
        InputError: with the full name of the setting and what is wrong with it.
    """
    try:
        return Hardware.model_validate(settings)
    except ValidationError as error:
        raise InputError(f"hardware.{explain_validation(error, Hardware)}") from error


def _figures(section: Section, name: str) -> Iterator[tuple[str, Figure]]:
    for key, value in section:
        if isinstance(value, Figure):
            yield f"{name}.{key}", value
        elif isinstance(value, Section):
            yield from _figures(value, f"{name}.{key}")
