"""Checkpoints that a killed process cannot tear, and which one a run continues from."""

import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from vgglab.errors import InputError
from vgglab.networks.weights import read_checkpoint

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """A checkpoint appears whole or not at all.

    Lightning's own writer goes through a temporary file that may lie on another file system, where
    a kill leaves a torn file, and does not flush to the disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write beside the target, flush, rename.

        Raises:
            InputError: the disk is full or the folder not writable; the previous file is intact.
        """
        target = Path(path)
        temporary: str | None = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
            with os.fdopen(descriptor, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
            _flush_folder(target.parent)
        except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
            if temporary is not None:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)
            raise InputError(
                f"cannot write the checkpoint {target}: {error}; an earlier one there is intact"
            ) from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = None,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Read with `weights_only=True`, whatever is asked for: a stranger's pickle runs no code.

        Raises:
            InputError: the file is missing, torn, or holds more than plain data.
        """
        return read_checkpoint(Path(path))


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoint_to_resume(resume: str | None, folder: Path) -> Path | None:
    """Where a run continues from.

    Args:
        resume: None for a new run, `auto` for the newest readable checkpoint there, or a file.
        folder: the run's `checkpoints` folder.

    Raises:
        InputError: the named file cannot be read, or a new run would overwrite an earlier one.
    """
    existing = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
    if resume is None:
        if existing:
            raise InputError(
                f"{folder.parent} already holds a run; resume=auto continues it, "
                "another hydra.run.dir starts anew"
            )
        return None
    if resume != "auto":
        _steps(Path(resume))
        return Path(resume)
    readable: list[tuple[int, float, Path]] = []
    for path in existing:
        try:
            readable.append((_steps(path), path.stat().st_mtime, path))
        except InputError as error:
            log.warning("skipped: %s", error)
    # Of those with equally many steps, the one written last knows most of its epoch.
    return max(readable)[2] if readable else None


def _steps(path: Path) -> int:
    checkpoint = read_checkpoint(path)
    if "global_step" not in checkpoint:
        raise InputError(f"{path} is not a training checkpoint; to start from weights use weights=")
    return int(checkpoint["global_step"])
