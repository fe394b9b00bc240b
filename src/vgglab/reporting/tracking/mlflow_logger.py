"""MLflow."""

import logging
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from vgglab.config.typed import flatten
from vgglab.errors import InputError
from vgglab.extras import require
from vgglab.files import read_json
from vgglab.reporting.tracking.kept import Kept, first_line, run_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

log = logging.getLogger(__name__)

# MLflow's own limits (mlflow.utils.validation).
_PARAMETERS = 100  # a call
_METRICS = 1000  # a call
_CHARACTERS = 6000  # of a value

# With MLflow's own, 7 retries of 120 s, a training would stand for a quarter of an hour when the
# server is lost; with these it is half a minute.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class MLflow(Logger):
    """Logs to the server of `MLFLOW_TRACKING_URI`, or into a folder of files.

    A server that is lost once the run has begun costs one warning: what did not arrive is kept, and
    offered again when the run ends.

    Args:
        run_dir: the run's folder. Its `mlflow.json` keeps the id by which a resumed run continues
            the same one.
        save_dir: of the files of all runs, where the environment names no server.
        experiment: what MLflow groups runs by.
        name: null is the last two parts of `run_dir`.
        resume_step: optimiser steps already done by the run that this one continues; None for a
            new run.
        hyperparameters: plain containers without secrets, logged when the run begins. A resumed
            run keeps those of its beginning, because MLflow lets nobody change them.

    Raises:
        InputError: the package is missing.
    """

    def __init__(
        self,
        run_dir: str,
        save_dir: str,
        experiment: str = "vgglab",
        name: str | None = None,
        resume_step: int | None = None,
        hyperparameters: dict[str, Any] | None = None,
    ) -> None:
        require("mlflow", extra="mlflow", what="logger=mlflow")
        super().__init__()
        self._run_dir = Path(run_dir)
        self._save_dir = save_dir
        self._experiment = experiment
        self._name = name or run_name(run_dir)
        self._kept = Kept(run_dir, "mlflow", resume_step)
        self._hyperparameters = hyperparameters or {}
        self._client: MlflowClient | None = None
        self._unsent: list[Metric] = []
        self._is_lost = False

    @property
    def name(self) -> str:
        return self._experiment

    @property
    def version(self) -> str | None:
        """The id of the MLflow run, once it has begun."""
        return self._kept.run_id

    @property
    def save_dir(self) -> str:
        return self._save_dir

    @property
    @rank_zero_experiment
    def experiment(self) -> "MlflowClient":
        """MLflow's client; the first call begins the run."""
        if self._client is None:
            from mlflow.exceptions import MlflowException

            try:
                self._client = self._begun()
            except MlflowException as error:
                raise InputError(f"logger=mlflow: {first_line(error)}") from error
        return self._client

    def _begun(self) -> "MlflowClient":
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a line a retry
        from mlflow import MlflowClient
        from mlflow.entities import Param

        at_server = "MLFLOW_TRACKING_URI" in os.environ
        if not at_server:
            # Version 3 would have SQLite instead, whose driver mlflow-skinny is without.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        client = MlflowClient(None if at_server else Path(self._save_dir).resolve().as_uri())
        if self._kept.run_id is not None:
            client.update_run(self._kept.run_id, status="RUNNING")
            return client
        found = client.get_experiment_by_name(self._experiment)
        number = found.experiment_id if found else client.create_experiment(self._experiment)
        run = client.create_run(number, run_name=self._name, tags=self._tags())
        self._kept.write(run.info.run_id)
        values = flatten(self._hyperparameters).items()
        parameters = [Param(name, str(value)[:_CHARACTERS]) for name, value in values]
        for start in range(0, len(parameters), _PARAMETERS):
            batch = parameters[start : start + _PARAMETERS]
            client.log_batch(run.info.run_id, params=batch)
        return client

    def _tags(self) -> dict[str, str]:
        """By MLflow's names, what it would find out itself, without user names and secrets."""
        path = self._run_dir / "environment.json"
        known = read_json(path) if path.is_file() else {}
        tags = {
            "mlflow.source.name": known.get("command"),
            "mlflow.source.git.commit": (known.get("git") or {}).get("commit"),
            "run_folder": str(self._run_dir),
        }
        return {name: value for name, value in tags.items() if value is not None}

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing: the run began with them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log what was not logged before: MLflow would keep both."""
        from mlflow.entities import Metric

        self.experiment  # noqa: B018 - here a server that is not there ends the run
        now = int(1000 * time.time())
        fresh = self._kept.fresh(metrics, step)
        self._unsent += [
            Metric(name, float(value), now, step or 0) for name, value in fresh.items()
        ]
        if not self._is_lost:
            self._try(self._send)

    def _send(self) -> None:
        assert self._client is not None
        assert self._kept.run_id is not None
        while self._unsent:
            self._client.log_batch(self._kept.run_id, metrics=self._unsent[:_METRICS])
            del self._unsent[:_METRICS]

    def _try(self, call: Callable[[], None]) -> None:
        """Training of days must not end with somebody's server; metrics.csv has everything."""
        from mlflow.exceptions import MlflowException

        try:
            call()
        except (MlflowException, OSError) as error:  # of a server, of a folder of files
            if not self._is_lost:
                log.warning(
                    "logger=mlflow: lost; metrics.csv has everything: %s", first_line(error)
                )
            self._is_lost = True

    @rank_zero_only
    def finalize(self, status: str) -> None:
        # Lightning says "success" after training, and the test is still to come.
        if status == "failed":
            told_to_stop = isinstance(sys.exc_info()[1], SIGTERMException | KeyboardInterrupt)
            self.finish("KILLED" if told_to_stop else "FAILED")

    @rank_zero_only
    def finish(self, status: str = "FINISHED") -> None:
        """End the MLflow run; what it was not given before it is now."""
        if self._client is not None:
            self._try(lambda: self._end(status))

    def _end(self, status: str) -> None:
        assert self._client is not None
        assert self._kept.run_id is not None
        self._send()
        self._client.set_terminated(self._kept.run_id, status)
