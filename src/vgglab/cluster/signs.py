"""What the processes of a run tell of themselves, and what follows when they wait too long."""

import os
import re
import sys
import time
from dataclasses import dataclass
from threading import main_thread

from torch import distributed

_WAITS = ("torch/distributed", "torch/nn/parallel", "torch/autograd/graph.py", "vgglab/cluster")


@dataclass(frozen=True)
class Sign:
    """A sign of life."""

    rank: int
    node: str
    beat: int
    """Grows while the process lives."""
    moves: int
    """Grows while its batches advance."""
    position: str
    """Such as `epoch 0, batch 17`."""
    idle: float
    """Seconds without a move."""
    place: str
    """Where its main thread stands, once it has been idle for a while: file, line, function."""
    waits: bool
    """Whether that is a wait for other processes."""
    time: float
    """Seconds since 1970, by that node's clock."""

    def name(self, world_size: int) -> str:
        return f"rank {self.rank} of {world_size} (node {self.node})"


def blame(world_size: int, signs: dict[int, Sign], silent: set[int], timeout: int) -> str:
    """Which process the others wait for.

    Args:
        world_size: how many there are.
        signs: the last one of each process that ever gave one, by rank.
        silent: those of them that have given no new one.
        timeout: `accelerator.timeout_seconds`.
    """
    if missing := sorted(set(range(world_size)) - signs.keys()):
        return f"rank {missing[0]} of {world_size} has never given a sign of life"
    if silent:
        sign = min((signs[rank] for rank in silent), key=lambda sign: sign.time)
        others = f", nor {len(silent) - 1} of the others" if len(silent) > 1 else ""
        since = _since(sign, max(0.0, time.time() - sign.time))
        return f"{sign.name(world_size)} gives no sign of life since {since}{others}"
    behind = min(sign.moves for sign in signs.values())
    last = [sign for _, sign in sorted(signs.items()) if sign.moves == behind]
    hanging = [sign for sign in last if not sign.waits]
    sign = (hanging or last)[0]
    since = _since(sign, sign.idle)
    if not hanging and len(last) == world_size:
        return f"all {world_size} processes live, but wait for each other since {since}"
    where = f" in {sign.place}" if sign.place else ""
    return (
        f"{sign.name(world_size)} hangs{where} since {since}; to what needs longer give a larger "
        f"accelerator.timeout_seconds than {timeout}"
    )


def _since(sign: Sign, seconds: float) -> str:
    return f"{sign.position}, {seconds:.0f} s ago"


def place() -> tuple[str, bool]:
    """Where the main thread stands, and whether it waits for other processes there."""
    frame = sys._current_frames().get(main_thread().ident or 0)
    name, waits = "", False
    while frame is not None:
        code = frame.f_code
        if not name:
            file = "/".join(code.co_filename.split("/")[-2:])
            name = f"{file}:{frame.f_lineno} ({code.co_name})"
        waits = waits or any(part in code.co_filename for part in _WAITS)
        frame = frame.f_back
    return name, waits


def is_loss(error: Exception) -> bool:
    """Whether a collective failed, or the processes did not meet."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and re.search("gloo|nccl", str(error).lower()) is not None
    )


def missed_meeting(error: Exception) -> str | None:
    """Why the processes did not meet, from torch's error; None if they did."""
    text, where = str(error), address()
    if "EADDRINUSE" in text:
        return f"{where} is in use by another program; choose another MASTER_PORT"
    if joined := re.search(r"(\d+)/(\d+) clients joined", text):
        return (
            f"only {joined[1]} of {joined[2]} processes came to {where}; see whether the others "
            "run, and whether they can reach it"
        )
    if not distributed.is_initialized():
        return f"the processes have not met at {where}: {shortened(error)}"
    return None


def address() -> str:
    """Where the processes meet."""
    return f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"


def shortened(error: Exception) -> str:
    """The first sentence of torch's error, without its source's place."""
    text = re.sub(r"\[[^\]]*\.cc:\d+\] ", "", " ".join(str(error).split()))
    return text.partition(". ")[0][:200]
