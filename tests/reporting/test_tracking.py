"""Weights & Biases and MLflow, offline: what their own readers find in the files."""

import json
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY, Compose
from vgglab.config.schema import TrainConfig, parse
from vgglab.errors import InputError
from vgglab.reporting.history import CSVHistory, read_history
from vgglab.reporting.tracking import MLflow, WeightsAndBiases, finish, leave
from vgglab.training.assembly import _loggers
from vgglab.training.run import train
from vgglab.training.stored import stored_job

Point = tuple[int, str]
SETTINGS = {"optimizer": {"lr": 0.1}, "seed": 0, "weights": None}


@pytest.fixture(autouse=True, scope="module")
def offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # which the logger sets for the process
        for name in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY", "RANK", "LOCAL_RANK"):
            patch.delenv(name, raising=False)
        yield
        if "wandb" in sys.modules:
            sys.modules["wandb"].teardown()


def wandb_records(file: Path) -> list[Any]:
    """Of a run that has ended; W&B's service may write the last of it a little later."""
    for _ in range(200):
        records = list(_records(file))
        if any(record.HasField("exit") for record in records):
            return records
        time.sleep(0.05)
    raise AssertionError(f"{file} has no end")


def _records(file: Path) -> Iterator[Any]:
    """LevelDB's log format, as W&B writes it: blocks of 32 KiB, each piece with a header."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = file.read_bytes()
    position, begun = 7, b""
    while position + 7 <= len(data):
        if (left := -position % 32768) and left < 7:
            position += left
            continue
        _, size, kind = struct.unpack("<IHB", data[position : position + 7])
        piece = data[position + 7 : position + 7 + size]
        if len(piece) < size:
            return
        begun = (begun if kind in (3, 4) else b"") + piece  # 1 whole, 2 first, 3 middle, 4 last
        position += 7 + size
        if kind in (1, 4):
            yield Record.FromString(begun)


def wandb_files(run_dir: Path) -> list[Path]:
    """Oldest first."""
    files = run_dir.glob("wandb/offline-run-*/*.wandb")
    return sorted(files, key=lambda path: path.stat().st_mtime_ns)


def wandb_points(file: Path) -> Counter[Point]:
    """How often each metric stands there, by Lightning's step."""
    points: Counter[Point] = Counter()
    for record in wandb_records(file):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
            step = row.pop("trainer/global_step")
            points.update((step, name) for name in row if name != "epoch" and name[0] != "_")
    return points


def mlflow_client(store: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(store.as_uri())


def mlflow_points(store: Path, run_id: str) -> Counter[Point]:
    client = mlflow_client(store)
    names = client.get_run(run_id).data.metrics
    return Counter((m.step, n) for n in names for m in client.get_metric_history(run_id, n))


def history_points(run_dir: Path) -> Counter[Point]:
    rows = read_history(run_dir / "metrics.csv")
    return Counter((int(r["step"]), n) for r in rows for n in r if n not in ("step", "epoch"))


def run_id(run_dir: Path, service: str) -> str:
    return str(json.loads((run_dir / f"{service}.json").read_text())["id"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with all loggers, and a secret on its command line."""
    from hydra import compose, initialize_config_dir

    from tests.conftest import ROOT

    folder = tmp_path_factory.mktemp("tracked")
    overrides = [
        *TINY,
        "name=test",
        f"run_dir={folder}",
        "trainer.max_epochs=1",
        "logger=[tensorboard,wandb,mlflow]",
        f"logger.mlflow.save_dir={folder}/mlruns",
        "+model.hub_token=geheim",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["scripts/train.py", *overrides])
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose("train", overrides=[o for o in overrides if "hub_token" not in o])
        train(parse(config, TrainConfig))
    return folder


def test_all_hold_what_the_history_holds(run: Path) -> None:
    """`metrics.csv` is written also where `logger=` does not name it."""
    history = history_points(run)
    assert {name for _, name in history} > {"train/loss", "val/top1", "test/top1", "lr"}
    (file,) = wandb_files(run)
    assert wandb_points(file) == history
    assert mlflow_points(run / "mlruns", run_id(run, "mlflow")) == history
    assert (run / "tensorboard").is_dir()


def test_final_metrics_and_settings(run: Path) -> None:
    result = json.loads((run / "metrics.json").read_text())
    found = mlflow_client(run / "mlruns").get_run(run_id(run, "mlflow"))
    assert {n: v for n, v in found.data.metrics.items() if n.startswith("test/")} == result
    assert found.data.params["optimizer.lr"] == "0.01"
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "/".join(run.parts[-2:])
    (file,) = wandb_files(run)
    config, summary, code = {}, {}, None
    for record in wandb_records(file):
        kind = record.WhichOneof("record_type")
        if kind == "config":
            config.update({u.key: json.loads(u.value_json) for u in record.config.update})
        elif kind == "summary":
            items = record.summary.update
            summary.update({i.key or "/".join(i.nested_key): i.value_json for i in items})
        elif kind == "exit":
            code = record.exit.exit_code
    assert config["optimizer"]["lr"] == 0.01
    assert {n: float(v) for n, v in summary.items() if n.startswith("test/")} == result
    assert code == 0


def test_no_secret_and_no_user_is_noted(run: Path) -> None:
    """W&B keeps the command line."""
    (file,) = wandb_files(run)
    environments = [r.environment for r in wandb_records(file) if r.HasField("environment")]
    assert "+model.hub_token=***" in environments[0].args
    for path in run.rglob("*"):
        if path.is_file() and ".ckpt" not in path.name:
            assert b"geheim" not in path.read_bytes(), path
    tags = mlflow_client(run / "mlruns").get_run(run_id(run, "mlflow")).data.tags
    assert "mlflow.user" not in tags


def test_a_replay_is_sent_nowhere(run: Path, tmp_path: Path) -> None:
    assert stored_job(run, tmp_path / "again", []).logger.keys() == {"tensorboard"}


def log(logger: Any, steps: range, run_dir: Path, resume_step: int | None = None) -> None:
    """As Lightning does: a checkpoint has it log a step early, and validation shares one."""
    history = CSVHistory(str(run_dir), resume_step)
    for step in steps:
        for each in (logger, history):
            each.log_metrics({"train/loss": 1 / (step + 1), "epoch": step // 3}, step)
            each.log_metrics({"train/loss": 1 / (step + 1), "epoch": step // 3}, step)
            if step % 3 == 2:
                each.log_metrics({"val/top1": step / 9, "epoch": step // 3}, step)


def test_a_resumed_mlflow_run_goes_on_without_repeats(tmp_path: Path) -> None:
    """It was killed at step 7, two steps after its checkpoint, before that step's validation."""
    store = tmp_path / "mlruns"
    first = MLflow(str(tmp_path), str(store), hyperparameters=SETTINGS)
    log(first, range(8), tmp_path)
    known = run_id(tmp_path, "mlflow")
    first.finalize("failed")
    assert mlflow_client(store).get_run(known).info.status == "FAILED"

    changed = {**SETTINGS, "seed": 1}
    again = MLflow(str(tmp_path), str(store), resume_step=6, hyperparameters=changed)
    assert again.experiment.get_run(known).info.status == "RUNNING"
    log(again, range(6, 12), tmp_path, 6)
    again.finalize("success")  # of the training; the test follows
    assert again.experiment.get_run(known).info.status == "RUNNING"
    finish([again])
    found = mlflow_client(store).get_run(known)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"optimizer.lr": "0.1", "seed": "0", "weights": "null"}
    points = mlflow_points(store, known)
    assert points == history_points(tmp_path)
    assert set(points.values()) == {1}
    assert {step for step, name in points if name == "train/loss"} == set(range(12))

    new = MLflow(str(tmp_path), str(store))  # in the same folder, but from the start
    assert new.experiment.get_run(run_id(tmp_path, "mlflow")).data.metrics == {}
    assert new.version != known


class Lost:
    """Answers nothing; `arrived` calls come through before."""

    def __init__(self, client: Any, arrived: int) -> None:
        self.client = client
        self.arrived = arrived
        self.asked = 0

    def log_batch(self, *given: Any, **named: Any) -> None:
        from mlflow.exceptions import MlflowException

        self.asked += 1
        if self.asked > self.arrived:
            raise MlflowException("http://me:hunter2@host failed\nMax retries exceeded")
        self.client.log_batch(*given, **named)

    def set_terminated(self, *given: Any) -> None:
        self.client.set_terminated(*given)


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_lost_mlflow_server_costs_one_line(
    comes_back: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "mlruns"
    logger = MLflow(str(tmp_path), str(store))
    client = logger.experiment
    lost = Lost(client, arrived=3)
    logger._client = lost  # type: ignore[assignment]
    log(logger, range(9), tmp_path)
    assert lost.asked == 4  # each would block the training
    (line,) = caplog.messages
    assert line.startswith("logger=mlflow: lost; metrics.csv has everything: http://***@host")
    if comes_back:
        lost.arrived = 100
    finish([logger])
    assert len(caplog.messages) == 1
    known = run_id(tmp_path, "mlflow")
    points = mlflow_points(store, known)
    assert sum(points.values()) == (12 if comes_back else 3)
    assert (points == history_points(tmp_path)) == comes_back
    status = client.get_run(known).info.status
    assert status == ("FINISHED" if comes_back else "RUNNING")  # nobody could tell it


def test_no_lost_call_blocks_for_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import environment_variables as known

    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    MLflow(str(tmp_path), f"{tmp_path}/mlruns").experiment  # noqa: B018 - it begins
    assert known.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 2
    assert known.MLFLOW_HTTP_REQUEST_TIMEOUT.get() == 77  # who sets it knows why


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_process_that_is_ended_ends_its_mlflow_run(
    status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = MLflow(str(tmp_path), f"{tmp_path}/mlruns")
    logger.log_metrics({"train/loss": 1.0}, 0)
    leave([logger], status)
    assert logger.experiment.get_run(run_id(tmp_path, "mlflow")).info.status == status
    monkeypatch.setattr(logger, "_end", None)  # a bug: the process must end all the same
    leave([logger], status)


def test_a_resumed_wandb_run_goes_on_without_repeats(tmp_path: Path) -> None:
    """Offline, the newest folder holds all of it: sent last, it replaces the others."""
    first = WeightsAndBiases(str(tmp_path), hyperparameters=SETTINGS)
    log(first, range(8), tmp_path)
    known = run_id(tmp_path, "wandb")
    first.finalize("failed")
    (before,) = wandb_files(tmp_path)
    again = WeightsAndBiases(str(tmp_path), resume_step=6)
    log(again, range(6, 12), tmp_path, 6)
    again.finalize("success")  # of the training; the test follows
    again.log_metrics({"test/top1": 0.5, "epoch": 4}, 12)
    finish([again])
    assert run_id(tmp_path, "wandb") == known
    assert known in str(before)
    *_, newest = wandb_files(tmp_path)
    assert known in str(newest)
    points = wandb_points(newest)
    assert points == history_points(tmp_path) + Counter({(12, "test/top1"): 1})
    codes = [
        [r.exit.exit_code for r in wandb_records(file) if r.HasField("exit")]
        for file in (before, newest)
    ]
    assert codes == [[1], [0]]


def test_another_process_than_the_first_logs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    for logger in (WeightsAndBiases(str(tmp_path)), MLflow(str(tmp_path), f"{tmp_path}/mlruns")):
        logger.log_metrics({"train/loss": 1.0}, 0)
        logger.finalize("success")
        finish([logger])
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_id_is_one_line(tmp_path: Path) -> None:
    for content in ('{"id": "../x"}', "{}", "nothing"):
        (tmp_path / "mlflow.json").write_text(content)
        with pytest.raises(InputError, match=r"mlflow\.json"):
            MLflow(str(tmp_path), f"{tmp_path}/mlruns", resume_step=3)


def test_a_run_that_mlflow_does_not_know_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.json").write_text('{"id": "0123"}')
    logger = MLflow(str(tmp_path), f"{tmp_path}/mlruns", resume_step=3)
    with pytest.raises(InputError, match=r"^logger=mlflow: .*0123"):
        logger.log_metrics({"train/loss": 1.0}, 3)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_one_line(
    name: str, composed: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    job = parse(composed("train", f"logger={name}"), TrainConfig)
    with pytest.raises(InputError, match=f"^logger={name} needs: uv sync --extra {name}$"):
        _loggers(job, None)


def test_nobody_logged_in_is_one_line_before_anything_is_written(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    wandb.teardown()  # it knows the mode already
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # no .netrc
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    job = parse(composed("train", "logger=wandb", "logger.wandb.mode=online"), TrainConfig)
    with pytest.raises(InputError, match=r"^logger=wandb: .*logger\.wandb\.mode=offline"):
        _loggers(job, None)
    assert not (tmp_path / "run").exists()
    wandb.teardown()


@pytest.mark.parametrize(
    "override",
    [
        "+logger.wandb.settings.base_url=http://elsewhere",
        "+logger.wandb.entity=stranger",
        "+logger.mlflow.tracking_uri=http://elsewhere",
        "+logger.x._target_=lightning.pytorch.loggers.WandbLogger",
        "+logger.x._target_=lightning.pytorch.loggers.MLFlowLogger",
    ],
)
def test_no_setting_names_a_server(override: str, composed: Compose) -> None:
    with pytest.raises(InputError, match=r"has no such setting|outside the modules"):
        parse(composed("train", "logger=[wandb,mlflow]", override), TrainConfig)


def test_the_history_is_kept_whatever_is_chosen(composed: Compose) -> None:
    for choice in ("tensorboard", "csv", "default"):
        job = parse(composed("train", f"logger={choice}"), TrainConfig)
        made = _loggers(job, None)
        assert sum(isinstance(logger, CSVHistory) for logger in made) == 1
