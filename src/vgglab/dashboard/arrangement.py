"""How TensorBoard's pages are laid out, and what they say of the run in words."""

import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from vgglab.config.typed import flatten
from vgglab.files import read_json
from vgglab.reporting.markdown import pipe_table
from vgglab.reporting.tensorboard import boards

# The page of custom scalars: what belongs together in one chart.
_CHARTS = {
    "loss": ("train/loss", "val/loss"),
    "accuracy": ("train/top1", "val/top1", "val/top5"),
    "learning rate": ("lr",),
    "throughput (images/s)": ("throughput/images_per_second",),
    "data wait (share of training time)": ("throughput/data_wait_fraction",),
}


class Arrangement(Callback):
    """Groups the charts, and writes the configuration and the environment as text.

    The texts stand at the step where an attempt begins: a resumed run shows what each had.

    Args:
        run_dir: the run's folder, for its `environment.json`.
    """

    def __init__(self, run_dir: str) -> None:
        self.run_dir = Path(run_dir)

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        card: dict[str, Any] = pl_module.card  # type: ignore[assignment]
        environment = read_json(self.run_dir / "environment.json")
        texts = {
            "run/configuration": configuration_text(card["config"]),
            "run/environment": environment_text(environment),
        }
        for board in boards(trainer):
            writer = board.experiment
            if board.begins:
                writer.add_custom_scalars({"curves": _layout()})
            for tag, text in texts.items():
                writer.add_text(tag, text, trainer.global_step)


def _layout() -> dict[str, list[Any]]:
    # The page takes each name for the beginning of a regular expression.
    exact = {title: [f"{re.escape(tag)}$" for tag in tags] for title, tags in _CHARTS.items()}
    return {title: ["Multiline", tags] for title, tags in exact.items()}


def configuration_text(config: dict[str, Any]) -> str:
    """Plain containers as a block of YAML in Markdown."""
    return _block(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def environment_text(environment: dict[str, Any]) -> str:
    """`environment.json` as Markdown: the command, then a table."""
    rest = {name: value for name, value in environment.items() if name != "command"}
    # What could not be found out is left out.
    rows = [(k, str(value)) for k, value in flatten(rest).items() if value not in ("null", "[]")]
    return f"{_block(environment['command'])}\n\n{pipe_table(('', ''), rows, ())}"


def _block(text: str) -> str:
    return f"```\n{text.rstrip()}\n```"
