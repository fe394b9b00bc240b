"""Small runs, and what two must share to count as the same run."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from tests.conftest import TINY, Compose
from vgglab.config.schema import TrainConfig, parse
from vgglab.training import assembly
from vgglab.training.run import train


def job(composed: Compose, *overrides: str, run_dir: Path) -> TrainConfig:
    return parse(composed("train", *TINY, *overrides, run_dir=run_dir), TrainConfig)


def weights(run_dir: Path, name: str = "last") -> dict[str, torch.Tensor]:
    path = run_dir / "checkpoints" / f"{name}.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    state: dict[str, torch.Tensor] = checkpoint["state_dict"]
    return state


class KilledError(Exception):
    """Stands for a power cut."""


class KillAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *arguments: object
    ) -> None:
        if trainer.global_step == self.step:
            raise KilledError


def train_and_kill(killed_job: TrainConfig, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = assembly._callbacks
    with monkeypatch.context() as patch:
        patch.setattr(assembly, "_callbacks", lambda *given: [*original(*given), KillAt(step)])
        with pytest.raises(KilledError):
            train(killed_job)


def assert_same_end(left: Path, right: Path) -> None:
    """Bit-identical weights and optimiser, the same history and result."""
    last = Path("checkpoints/last.ckpt")
    assert_same(_essence(left / last), _essence(right / last), last.name)
    assert history(left) == history(right)
    assert (left / "metrics.json").read_text() == (right / "metrics.json").read_text()


def assert_same(left: Any, right: Any, path: str) -> None:
    """Equal to the bit; of nested containers the message names the first part that differs."""
    assert type(left) is type(right), f"{path}: {type(left)} and {type(right)}"
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), path
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), f"{path}: {left.keys() ^ right.keys()} in one only"
        for key in left:
            assert_same(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, list | tuple):
        for i, pair in enumerate(zip(left, right, strict=False)):
            assert_same(*pair, f"{path}.{i}")
        assert len(left) == len(right), f"{path}: {len(left)} and {len(right)} parts"
    else:
        assert left == right, f"{path}: {left!r} and {right!r}"


def ending(run_dir: Path) -> dict[str, Any]:
    """All that two folders must share, as nested plain containers.

    Which predecessors stand beside a checkpoint depends on what was written before a kill.
    """
    files = [path for path in run_dir.rglob("*") if path.is_file() and path.parent.name != ".hydra"]
    kept = [path for path in files if "last-" not in path.name]
    confusion = run_dir / "confusion.json"  # not of a run with callbacks=essential
    return {
        "checkpoints": {p.name: _essence(p) for p in kept if p.suffix == ".ckpt"},
        "history": history(run_dir),
        "result": (run_dir / "metrics.json").read_text(),
        "confusion": confusion.read_text() if confusion.exists() else None,
        "curves": curves(run_dir),
        "files": {re.sub(r"tfevents.*", "", path.name) for path in kept},
    }


def _essence(path: Path) -> dict[str, Any]:
    checkpoint = torch.load(path, weights_only=True)
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "current_model_state")
    return {part: checkpoint[part] for part in (*parts, "global_step") if part in checkpoint}


def history(run_dir: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without the one thing that may differ, how fast it went."""
    with (run_dir / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not k.startswith("throughput")} for row in rows]


def curves(run_dir: Path) -> dict[str, list[tuple[int, object]]]:
    """What TensorBoard shows of a run but its speed: (step, value) of scalars and images by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run_dir / "tensorboard"), {"scalars": 0, "images": 0})
    board.Reload()
    tags = board.Tags()
    shown: dict[str, list[tuple[int, object]]] = {
        tag: [(event.step, event.value) for event in board.Scalars(tag)]
        for tag in tags["scalars"]
        if not tag.startswith("throughput")
    }
    for tag in tags["images"]:
        shown[tag] = [(event.step, event.encoded_image_string) for event in board.Images(tag)]
    return shown
