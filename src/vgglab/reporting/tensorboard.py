"""TensorBoard: curves without repeated steps, HPARAMS with the result, and pictures."""

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchvision.utils import make_grid

from vgglab.files import flush

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEGIBLE = 64  # pixels: smaller images are enlarged towards this side
_COUNTS_UP_TO = 20  # classes: more counts than 20 x 20 cannot be read
_LABELS_UP_TO = 50


def _say_errors_once() -> None:
    """TensorBoard's thread hands its error, such as a full disk, to who writes or flushes next."""
    others = threading.excepthook
    if getattr(others, "__module__", None) == __name__:
        return

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            others(arguments)

    threading.excepthook = hook


class TensorBoard(TensorBoardLogger):
    """Writes event files into `save_dir/tensorboard`.

    Args:
        save_dir: the run's folder.
        resume_step: optimiser steps already done by the run that this one continues: TensorBoard
            forgets what earlier event files hold from that step on. None for a new run, which
            replaces the curves of an earlier one in the same folder.
    """

    def __init__(self, save_dir: str, resume_step: int | None = None) -> None:
        super().__init__(
            save_dir,
            name="tensorboard",
            version="",
            default_hp_metric=False,
            purge_step=resume_step or 0,
        )
        _say_errors_once()
        self._last: tuple[int | None, Mapping[str, float]] | None = None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log what was not logged just before: a checkpoint logs its step before Lightning does."""
        if self._last != (step, metrics):
            self._last = (step, dict(metrics))
            super().log_metrics(metrics, step)

    @rank_zero_only
    def save(self) -> None:
        # Lightning's would also leave a hparams.yaml, a copy of .hydra/config.yaml.
        self.experiment.flush()

    @rank_zero_only
    def flush(self) -> None:
        """Wait until what was logged is on the disk."""
        self.experiment.flush()
        for path in Path(self.log_dir).glob("events.*"):
            flush(path)
        flush(Path(self.log_dir))  # of a file that is new, its name too

    @rank_zero_only
    def log_result(self, hyperparameters: dict[str, Any], metrics: dict[str, float]) -> None:
        """Fill the HPARAMS page: one row for this run, with its settings and final metrics.

        The page takes the values from the scalars of the same names, so these must have been
        logged. (`SummaryWriter.add_hparams` logs them again, in a second run.) Of a run that ends
        twice, TensorBoard keeps the first hyper-parameters and the last metrics.

        Args:
            hyperparameters: plain containers, nested as they like; `{"a": {"b": 1}}` is `a.b`.
            metrics: the final values; the names count.
        """
        # Lazily: it loads all of TensorBoard's protocol buffers.
        from torch.utils.tensorboard.summary import hparams

        writer = self.experiment._get_file_writer()
        for summary in hparams(flatten(hyperparameters), dict(metrics)):  # type: ignore[no-untyped-call]
            writer.add_summary(summary)
        self.experiment.flush()


def boards(trainer: Trainer) -> list[TensorBoard]:
    """The run's TensorBoard loggers."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoard)]


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, bool | str | float | int]:
    """Dotted names to values that TensorBoard takes: None is "null", a list is its JSON."""
    flat: dict[str, bool | str | float | int] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat.update(flatten(value, f"{name}."))
        elif isinstance(value, bool | str | float | int):
            flat[name] = value
        else:
            flat[name] = json.dumps(value, default=str)
    return flat


def image_grid(images: Tensor, columns: int = 8) -> Tensor:
    """Lay images out in rows, small ones enlarged so that a person can see them.

    Args:
        images: (N, C, H, W), uint8. One channel is grey, of more than three the first three show.
        columns: images in a row.

    Returns:
        (3, height, width), uint8.
    """
    factor = max(1, _LEGIBLE // max(images.shape[-2:]))
    images = images.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    channels = images[:, :3] if images.shape[1] >= 3 else images[:, :1]
    return make_grid(channels.expand(-1, 3, -1, -1), nrow=columns, padding=2, pad_value=255)


def confusion_figure(matrix: Tensor, classes: Sequence[str]) -> "Figure":
    """Draw a confusion matrix; the colour is the share of the true class (the row).

    Args:
        matrix: (C, C) counts, true class by predicted class.
        classes: C names.

    Returns:
        A matplotlib figure that belongs to no window and no global state.
    """
    from matplotlib.figure import Figure

    count = len(classes)
    counts = matrix.detach().cpu().double()
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    side = min(4 + 0.35 * count, 14)  # inches
    figure = Figure(figsize=(side, side), dpi=100, layout="constrained")
    axes = figure.add_subplot(xlabel="predicted", ylabel="true")
    axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    if count <= _LABELS_UP_TO:
        axes.set_xticks(range(count), classes, rotation=90, parse_math=False)
        axes.set_yticks(range(count), classes, parse_math=False)
    if count <= _COUNTS_UP_TO:
        for row, column in torch.nonzero(counts).tolist():
            axes.text(
                column,
                row,
                f"{counts[row, column]:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share[row, column] > 0.5 else "black",
            )
    return figure
