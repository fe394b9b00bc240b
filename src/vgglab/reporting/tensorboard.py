"""TensorBoard: curves without repeated steps, and HPARAMS with the result."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from vgglab.config.typed import flatten
from vgglab.files import flush

if TYPE_CHECKING:
    from tensorboard.compat.proto.graph_pb2 import GraphDef
    from tensorboard.compat.proto.summary_pb2 import Summary


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

    Here and in what calls `write` TensorBoard's protocol buffers are imported lazily: who only
    imports this needs none.

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
        # What a folder has once: a graph, say. Of a run that branched off another's checkpoint,
        # its own folder has none.
        self.begins = resume_step is None or not list(Path(self.log_dir).glob("events.*"))
        self._last: tuple[int | None, Mapping[str, float]] = (None, {})

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log what was not logged just before: a checkpoint logs its step before Lightning does,
        and with each step's metrics and with its validation's comes the epoch.
        """
        last_step, last = self._last
        if (step, metrics) == (last_step, last):
            return
        self._last = (step, dict(metrics))
        if step == last_step and "epoch" in last:
            metrics = {name: value for name, value in metrics.items() if name != "epoch"}
        super().log_metrics(metrics, step)

    def write(self, summary: "Summary", step: int | None = None) -> None:
        """Write what was made ready: `SummaryWriter`'s own methods take longer, or write more."""
        self.experiment._get_file_writer().add_summary(summary, step)

    def write_graph(self, graph: "GraphDef") -> None:
        """Fill the GRAPHS page."""
        from tensorboard.compat.proto.event_pb2 import Event

        event = Event(graph_def=graph.SerializeToString())
        self.experiment._get_file_writer().add_event(event)

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
    def log_settings(self, hyperparameters: dict[str, Any]) -> None:
        """Fill the HPARAMS page: one row for this run, with its settings and final metrics.

        The page takes the metrics from the last values of the run's scalars, whatever they are.
        (`SummaryWriter.add_hparams` logs them again, in a second run.) It must find no list of
        columns: each run would bring its own, and the page takes the first that it meets for all
        runs, so that what only the others have, a metric or a setting, is not there. Without one it
        gathers the columns from all runs, and puts first the settings that differ. Of a run that
        ends twice, TensorBoard keeps the first settings and the last metrics.

        Args:
            hyperparameters: plain containers, nested as they like; `{"a": {"b": 1}}` is `a.b`.
        """
        from tensorboard.plugins.hparams import summary_v2

        # By itself it would put runs of the same settings, repetitions, into one row.
        row = summary_v2.hparams_pb(flatten(hyperparameters), trial_id="")
        self.write(row)
        self.experiment.flush()


def boards(trainer: Trainer) -> list[TensorBoard]:
    """The run's TensorBoard loggers."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoard)]
