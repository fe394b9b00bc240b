"""Weights & Biases and MLflow: a run's settings and curves where many runs are looked at.

No argument names a server, an account or a key. These come from the environment alone, as their
users expect, and a stranger's configuration file can send a run to nobody. Unless the environment
says otherwise, the packages do not report to their makers how they are used.
"""

from collections.abc import Iterable
from contextlib import suppress

from lightning.pytorch.loggers.logger import Logger

from vgglab.reporting.tracking.mlflow_logger import MLflow
from vgglab.reporting.tracking.wandb_logger import WeightsAndBiases

__all__ = ["MLflow", "WeightsAndBiases", "finish", "leave"]


def finish(loggers: Iterable[Logger]) -> None:
    """End what ends only when it is told: the test comes after the training, and the next run of a
    sweep would go on with it."""
    for logger in loggers:
        if isinstance(logger, WeightsAndBiases | MLflow):
            logger.finish()


def leave(loggers: Iterable[Logger], status: str) -> None:
    """The same before this process is ended from elsewhere; in any thread, and without raising.

    Of W&B's runs its own service sees that they are lost.

    Args:
        loggers: of the run.
        status: MLflow's: KILLED or FAILED.
    """
    for logger in loggers:
        if isinstance(logger, MLflow):
            with suppress(Exception):  # or the process would stay
                logger.finish(status)
