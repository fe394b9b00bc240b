"""Weights & Biases and MLflow: a run's settings and curves where many runs are looked at.

No argument names a server, an account or a key. These come from the environment alone, as their
users expect, and a stranger's configuration file can send a run to nobody. Unless the environment
says otherwise, the packages do not report to their makers how they are used.
"""

import json
import logging
import os
import re
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from vgglab.config.secrets import line_without_secrets, without_secrets
from vgglab.config.typed import flatten
from vgglab.errors import InputError
from vgglab.files import read_json, replace_file
from vgglab.ranks import process_rank
from vgglab.reporting.history import read_history

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

log = logging.getLogger(__name__)

_EPOCH = "epoch"  # Lightning adds it to all metrics

# MLflow's own limits (mlflow.utils.validation).
_PARAMETERS = 100  # a call
_METRICS = 1000  # a call
_CHARACTERS = 6000  # of a value

# With MLflow's own, 7 retries of 120 s, a training would stand for a quarter of an hour when the
# server is lost; with these it is half a minute.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class WeightsAndBiases(WandbLogger):
    """Logs to Weights & Biases, or with `mode=offline` into `save_dir/wandb` for `wandb sync`.

    Args:
        save_dir: the run's folder. Its `wandb.json` keeps the id by which a resumed run continues
            the same one.
        project: in the account of `WANDB_ENTITY` or of the key.
        name: null is the last two parts of `save_dir`.
        group: runs that belong together.
        tags: to find it by.
        mode: null is `WANDB_MODE`, or online where that is not set.
        resume_step: optimiser steps already done by the run that this one continues; None for a
            new run.
        hyperparameters: plain containers without secrets, logged when the run begins.

    Raises:
        InputError: the package is missing, or nobody is logged in.
    """

    def __init__(
        self,
        save_dir: str,
        project: str = "vgglab",
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        resume_step: int | None = None,
        hyperparameters: dict[str, Any] | None = None,
    ) -> None:
        _require("wandb")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        if not process_rank() and (mode or wandb.setup().settings.mode) == "online":
            # Before anything is written; where somebody sits there, it asks for the key.
            with _as_bad_input():
                wandb.login()
        self._kept = _Kept(save_dir, "wandb", resume_step)
        self._hyperparameters = hyperparameters or {}
        super().__init__(
            name=name or _name(save_dir),
            save_dir=save_dir,
            version=self._kept.run_id,
            project=project,
            group=group,
            tags=tags,
            mode=mode,
            # Bars would fill its log, and the run prints its own result.
            settings=wandb.Settings(console="off", quiet=True),
        )
        del self._wandb_init["anonymous"]  # of which W&B would say that it is no more

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; the first call begins it."""
        if self._experiment is None:
            with _as_bad_input(), _command_without_secrets():
                begun = super().experiment
            self._kept.write(begun.id)
            self.log_hyperparams(self._hyperparameters)
            if begun.offline:
                # Every process has a folder of its own, and the one that is sent last replaces
                # the others (wandb/wandb issue 3841): each must hold the whole history.
                for row in self._kept.start_over():
                    step = int(row.pop("step", 0))
                    super().log_metrics(row, step)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log what was not logged before: W&B would keep both."""
        self.experiment  # noqa: B018 - it knows what was, once it has begun
        if fresh := self._kept.fresh(metrics, step):
            super().log_metrics(fresh | _epoch(metrics), step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        # Lightning says "success" after training, and the test is still to come.
        if status != "success":
            self.finish(exit_code=1)

    @rank_zero_only
    def finish(self, exit_code: int = 0) -> None:
        """End the W&B run, which waits until everything is sent."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=exit_code)


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
        _require("mlflow")
        super().__init__()
        self._run_dir = Path(run_dir)
        self._save_dir = save_dir
        self._experiment = experiment
        self._name = name or _name(run_dir)
        self._kept = _Kept(run_dir, "mlflow", resume_step)
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
                raise InputError(f"logger=mlflow: {_line(error)}") from error
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
                log.warning("logger=mlflow: lost; metrics.csv has everything: %s", _line(error))
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


class _Kept:
    """What a run and those that resume it share: an id, and what has been logged.

    Args:
        run_dir: the run's folder.
        where: the name of the service.
        resume_step: None for a new run, which begins with a new id.
    """

    def __init__(self, run_dir: str, where: str, resume_step: int | None) -> None:
        self._path = Path(run_dir) / f"{where}.json"
        self._history: list[dict[str, float]] = []
        self._logged: dict[int, set[str]] = {}
        self.run_id: str | None = None
        if resume_step is not None and self._path.is_file():
            self.run_id = self._read()
            # Nobody can take back what an earlier process logged after its last checkpoint, but
            # the run comes to the same numbers again.
            for row in read_history(self._path.with_name("metrics.csv")):
                step = int(row.get("step", 0))
                if step < resume_step:
                    self._history.append(row)
                else:
                    self._logged.setdefault(step, set()).update(row)

    def start_over(self) -> list[dict[str, float]]:
        """The rows of the history that the run continues; nothing counts as logged."""
        self._logged.clear()
        return self._history

    def fresh(self, metrics: Mapping[str, float], step: int | None) -> dict[str, float]:
        """Those that have not been logged at this step."""
        step = step or 0
        self._logged = {then: names for then, names in self._logged.items() if then >= step}
        logged = self._logged.setdefault(step, {_EPOCH})
        fresh = {name: value for name, value in metrics.items() if name not in logged}
        logged.update(fresh)
        return fresh

    def write(self, run_id: str) -> None:
        if run_id != self.run_id:
            self.run_id = run_id
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, (json.dumps({"id": run_id}) + "\n").encode())

    def _read(self) -> str:
        run_id = read_json(self._path).get("id")
        if not (isinstance(run_id, str) and re.fullmatch(r"[\w-]{1,64}", run_id)):
            raise InputError(f"{self._path} holds no id of a run; without it a new one begins")
        return run_id


def _epoch(metrics: Mapping[str, float]) -> dict[str, float]:
    return {_EPOCH: metrics[_EPOCH]} if _EPOCH in metrics else {}


def _name(run_dir: str) -> str:
    return "/".join(Path(run_dir).resolve().parts[-2:])


def _require(package: str) -> None:
    if find_spec(package) is None:
        raise InputError(f"logger={package} needs: uv sync --extra {package}")


@contextmanager
def _as_bad_input() -> Iterator[None]:
    import wandb

    try:
        yield
    except wandb.Error as error:
        raise InputError(
            f"logger=wandb: {_line(error)} (logger.wandb.mode=offline needs no account)"
        ) from error


@contextmanager
def _command_without_secrets() -> Iterator[None]:
    """W&B notes the command line."""
    whole = sys.argv
    sys.argv = without_secrets(whole)
    try:
        yield
    finally:
        sys.argv = whole


def _line(error: Exception) -> str:
    first = next((line for line in str(error).splitlines() if line), type(error).__name__)
    return line_without_secrets(first)
