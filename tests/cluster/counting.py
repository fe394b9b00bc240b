"""Callbacks of the runs here: one counts what a training step sends, one spoils a batch."""

import json
import threading
from pathlib import Path
from typing import Any
from unittest import mock

from lightning import Callback, LightningModule, Trainer
from torch import Tensor, distributed
from torch.utils._python_dispatch import TorchDispatchMode

NONE = {"wait_tensor", "_wrap_tensor_autograd"}


class Collectives(TorchDispatchMode):
    """All that passes torch's dispatcher in this thread, also what C++ issues (DDP's reducer)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, name = str(func).split(".")[:2]
        if namespace in ("c10d", "_c10d_functional") and name not in NONE:
            self.seen.append(kind_and_bytes(name, args))
        return func(*args, **(kwargs or {}))


def kind_and_bytes(name: str, args: Any) -> tuple[str, int]:
    """The kind of an operation, and the bytes of its whole tensor."""
    match name, args:
        case "allreduce_", [[tensor], *_]:
            return "all_reduce", tensor.nbytes
        case "broadcast_", [[tensor], *_]:
            return "broadcast", tensor.nbytes
        case "_allgather_base_", [gathered, *_]:
            return "all_gather", gathered.nbytes
        case "_reduce_scatter_base_", [_, scattered, *_]:
            return "reduce_scatter", scattered.nbytes
        case "all_gather_into_tensor", [part, devices, *_]:
            return "all_gather", part.nbytes * devices
        case "reduce_scatter_tensor", [scattered, *_]:
            return "reduce_scatter", scattered.nbytes
    raise NotImplementedError(f"{name} of {args}")


class Counter(Callback):
    """Writes what one training step issues, from the end of the one before to its own end."""

    def __init__(self, run_dir: str, batch: int) -> None:
        self.run_dir = Path(run_dir)
        self.batch = batch
        self.mode = Collectives()
        # gloo continues PowerSGD in threads of its own, where no mode is on.
        self.elsewhere = mock.patch.object(distributed, "all_reduce", self._all_reduce)

    def _all_reduce(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            self.mode.seen.append(("all_reduce", tensor.nbytes))
        return self.elsewhere.temp_original(tensor, *args, **kwargs)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.batch - 1:
            self.mode.__enter__()
            self.elsewhere.start()
        elif batch_idx == self.batch:
            self.elsewhere.stop()
            self.mode.__exit__(None, None, None)
            path = self.run_dir / f"traffic-{trainer.global_rank}.json"
            path.write_text(json.dumps(self.mode.seen), encoding="utf-8")


class Poison(Callback):
    """Makes the loss of one batch of the last process not finite."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.at_hand = -1

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.at_hand = batch_idx

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        last = trainer.global_rank == trainer.world_size - 1
        if last and self.at_hand == self.batch and trainer.current_epoch == 0:
            loss.data.mul_(float("nan"))
