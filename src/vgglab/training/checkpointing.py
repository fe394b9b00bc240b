"""Checkpoints that a killed process cannot tear, and which one a run continues from."""

import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, save

from vgglab.errors import InputError
from vgglab.files import remove, replacing
from vgglab.networks.weights import PREFIX, check_whole, open_checkpoint, read_checkpoint

log = logging.getLogger(__name__)

_MOST_PENDING = 2  # the best and the last checkpoint of an epoch
# What Lightning restores, or would begin anew without a word.
_PARTS = {"state_dict", "optimizer_states", "lr_schedulers", "loops"}


class CheckpointWriter(TorchCheckpointIO):
    """A checkpoint appears whole or not at all, with its SHA-256 beside it.

    Lightning's own writer goes through a temporary file that may lie on another file system, where
    a kill leaves a torn file, and does not flush to the disk.

    Args:
        asynchronous: copy the tensors and write them in a thread while training goes on: in order,
            removals too, so that no checkpoint goes before its successor is whole, and with at
            most two copies in memory, of the best and of the last. (Lightning's AsyncCheckpointIO
            queues copies without bound and removes at once.)
    """

    def __init__(self, *, asynchronous: bool = False) -> None:
        self.asynchronous = asynchronous
        self._thread: ThreadPoolExecutor | None = None
        self._pending: deque[Future[None]] = deque()
        self._failed = False

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write beside the target, flush, rename.

        Args:
            checkpoint: plain containers and tensors.
            path: the file.
            storage_options: `{"keep": N}` leaves N predecessors, as `vgglab.files.replacing`.

        Raises:
            InputError: this one or, when asynchronous, an earlier one could not be written, such as
                on a full disk; what was there is intact.
        """
        keep = (storage_options or {}).get("keep", 0)
        if self.asynchronous:
            while len(self._pending) >= _MOST_PENDING:
                self._pending.popleft().result()
            checkpoint = apply_to_collection(checkpoint, Tensor, _copied)
        self._do(_write, checkpoint, Path(path), keep)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = None,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Read with `weights_only=True`, whatever is asked for: a stranger's pickle runs no code.

        Raises:
            InputError: the file is missing, torn, altered, or holds more than plain data.
        """
        self.wait()
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a file and its digest."""
        self._do(remove, Path(path))

    def wait(self) -> None:
        """Until the disk has what was saved.

        Raises:
            InputError: it could not be written.
        """
        while self._pending:
            self._pending.popleft().result()

    def raise_if_failed(self) -> None:
        """Report a failed save without waiting for a running one.

        Raises:
            InputError: it could not be written.
        """
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()

    def teardown(self) -> None:
        """Called by Lightning at the end of a run, also after an error."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None

    def _do(self, function: Callable[..., None], *arguments: Any) -> None:
        if not self.asynchronous:
            function(*arguments)
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending.append(self._thread.submit(self._in_turn, function, *arguments))

    def _in_turn(self, function: Callable[..., None], *arguments: Any) -> None:
        if self._failed:
            return  # what follows a failed save may be its predecessor's removal
        try:
            function(*arguments)
        except BaseException:
            self._failed = True
            raise


def _copied(tensor: Tensor) -> Tensor:
    """On the CPU, apart from the one that training goes on changing."""
    return tensor.detach().to("cpu", copy=True)


def _write(checkpoint: dict[str, Any], path: Path, keep: int) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            save(checkpoint, file)
        try:
            open_checkpoint(temporary)
        except InputError as error:  # what cannot be resumed from must not replace what can
            raise InputError(
                f"cannot save {path}: the state of callbacks and modules must be tensors and "
                f"plain Python values ({error})"
            ) from error

    _place(write, path, keep)


def copy_checkpoint(source: Path, path: Path, keep: int) -> None:
    """Write a checkpoint's bytes to another place.

    Raises:
        InputError: it could not be written; what was there is intact.
    """
    _place(lambda temporary: shutil.copyfile(source, temporary), path, keep)


def _place(write: Callable[[Path], object], path: Path, keep: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, sealed=True, keep=keep) as temporary:
            write(temporary)
    except (OSError, RuntimeError) as error:
        # torch's archive, closed on a full disk, hides that behind "unexpected pos 576 vs 534".
        cause = error if isinstance(error, OSError) else error.__context__
        reason = cause.strerror if isinstance(cause, OSError) else error
        raise InputError(
            f"cannot write the checkpoint {path}: {reason}; what was there is intact"
        ) from error


@dataclass(frozen=True)
class Start:
    """The checkpoint that a run continues from."""

    path: Path
    step: int
    """Optimiser steps done."""
    config: dict[str, Any]
    """The configuration of the run that wrote it."""
    weights: dict[str, Tensor]
    """The network's, by its own keys, on `meta`: their shapes."""
    averages: bool
    """Whether that run had a moving average of the weights."""
    passed_over: tuple[Path, ...] = ()
    """Later checkpoints that are damaged."""


def checkpoint_to_resume(resume: str | None, folder: Path) -> Start | None:
    """Where a run continues from.

    Args:
        resume: None for a new run, `auto` for the newest valid checkpoint there, or a file.
        folder: the run's `checkpoints` folder.

    Raises:
        InputError: the named file cannot be used, or a new run would overwrite an earlier one.
    """
    existing = list(folder.glob("*.ckpt"))
    if resume is None:
        if existing:
            raise InputError(
                f"{folder.parent} already holds a run; resume=auto continues it, "
                "another hydra.run.dir starts anew"
            )
        return None
    starts, damaged = _starts(existing)
    if resume != "auto":
        check_whole(Path(resume))
        chosen = _start_at(Path(resume))
        if any(other.step > chosen.step for other in starts):
            raise InputError(
                f"{folder.parent} is further than {resume}; branch off in another hydra.run.dir"
            )
        return chosen
    # Most trained first; of those with equally many steps, the one written last knows most of its
    # epoch. To find that out costs little, to read a large file through does not.
    found = sorted(
        ((start.step, start.path.stat().st_mtime, start) for start in starts),
        key=lambda entry: entry[:2],
        reverse=True,
    )
    for _, _, start in found:
        try:
            check_whole(start.path)
        except InputError as error:
            _pass_over(error)
            damaged.append(start.path)
        else:
            return replace(start, passed_over=tuple(damaged))
    if existing:  # to start afresh would overwrite what might yet be repaired
        raise InputError(
            f"none of the checkpoints in {folder} can be used; another hydra.run.dir starts anew"
        )
    return None


def reaches(path: Path, step: int) -> bool:
    """Whether there is a valid checkpoint of that step or a later one."""
    try:
        check_whole(path)
        return _start_at(path).step >= step
    except InputError:
        return False


def _starts(paths: Iterable[Path]) -> tuple[list[Start], list[Path]]:
    """Those that look whole, and those that do not."""
    starts, damaged = [], []
    for path in paths:
        try:
            starts.append(_start_at(path))
        except InputError as error:
            _pass_over(error)
            damaged.append(path)
    return starts, damaged


@rank_zero_only
def _pass_over(error: InputError) -> None:
    log.warning("passed over: %s", error)


def _start_at(path: Path) -> Start:
    checkpoint = open_checkpoint(path)
    if not isinstance(checkpoint, dict) or "global_step" not in checkpoint:
        raise InputError(f"{path} is not a training checkpoint; to start from weights use weights=")
    card, step = checkpoint.get("vgglab", {}), checkpoint["global_step"]
    config = card.get("config", {}) if isinstance(card, dict) else None
    if missing := sorted(_PARTS - checkpoint.keys()):
        raise InputError(f"{path} has no {', '.join(missing)}: a run cannot continue from it")
    state = checkpoint["state_dict"]
    if not (isinstance(step, int) and isinstance(config, dict) and isinstance(state, dict)):
        raise InputError(f"{path} is not a training checkpoint of this project")
    weights = {
        key.removeprefix(PREFIX): value.to("meta")
        for key, value in state.items()
        if isinstance(value, Tensor) and key.startswith(PREFIX)
    }
    return Start(path, step, config, weights, averages="current_model_state" in checkpoint)
