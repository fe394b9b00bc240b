"""What TensorBoard's pages show of a run."""

from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray


def tensors(run_dir: Path, prefix: str) -> dict[str, list[tuple[int, Any]]]:
    """By tag, the (step, array) of tags that begin so.

    (TensorBoard's older reader, `event_accumulator`, does not forget tensors on a resume.)
    """
    board = EventAccumulator(str(run_dir / "tensorboard"), {"tensors": 0})
    board.Reload()
    return {
        tag: [(event.step, make_ndarray(event.tensor_proto)) for event in board.Tensors(tag)]
        for tag in board.Tags()["tensors"]
        if tag.startswith(prefix)
    }
