"""Event files, read back with TensorBoard's own readers."""

from pathlib import Path

import pytest
from tensorboard import context
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from vgglab.reporting.tensorboard import TensorBoard


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return accumulator


def test_scalars_go_into_the_tensorboard_folder_and_nothing_else_does(tmp_path: Path) -> None:
    board = TensorBoard(str(tmp_path))
    board.log_metrics({"train/loss": 0.5}, 3)
    board.save()
    board.finalize("success")
    (scalar,) = events(tmp_path).Scalars("train/loss")
    assert (scalar.step, scalar.value) == (3, 0.5)
    assert all("tfevents" in path.name for path in (tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize(
    ("resume_step", "expected"),
    [(5, [(s, 1.0) for s in range(5)] + [(5, 2.0), (6, 2.0)]), (None, [(5, 2.0), (6, 2.0)])],
)
def test_a_resumed_curve_repeats_no_step_and_a_new_one_starts_over(
    tmp_path: Path, resume_step: int | None, expected: list[tuple[int, float]]
) -> None:
    first = TensorBoard(str(tmp_path))
    for step in range(8):
        first.log_metrics({"train/loss": 1.0}, step)
    first.finalize("failed")
    second = TensorBoard(str(tmp_path), resume_step=resume_step)
    for step in (5, 6):
        second.log_metrics({"train/loss": 2.0}, step)
    second.finalize("success")
    assert [(s.step, s.value) for s in events(tmp_path).Scalars("train/loss")] == expected


def hparams_page(logdir: Path) -> backend_context.Context:
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(logdir))
    return backend_context.Context(TBContext(data_provider=provider, logdir=str(logdir)))


def test_the_hparams_page_shows_settings_and_final_metrics(tmp_path: Path) -> None:
    board = TensorBoard(str(tmp_path))
    board.log_metrics({"test/top1": 0.75}, 12)
    board.log_settings({"optimizer": {"lr": 0.1, "nesterov": True}, "name": None})
    board.finalize("success")

    request = api_pb2.ListSessionGroupsRequest(
        slice_size=10, allowed_statuses=[api_pb2.STATUS_UNKNOWN]
    )
    request.col_params.add(metric=api_pb2.MetricName(tag="test/top1"))
    page = hparams_page(tmp_path)
    found = list_session_groups.Handler(context.RequestContext(), page, "", request).run()

    (row,) = found.session_groups
    assert row.hparams["optimizer.lr"].number_value == 0.1
    assert row.hparams["optimizer.nesterov"].bool_value is True
    assert row.hparams["name"].string_value == "null"
    (metric,) = row.metric_values
    assert (metric.name.tag, metric.value, metric.training_step) == ("test/top1", 0.75, 12)
    assert len(events(tmp_path).Scalars("test/top1")) == 1


def test_the_hparams_page_has_the_columns_of_all_runs_and_those_that_differ_first(
    tmp_path: Path,
) -> None:
    common = {"model": {"name": "vgg11"}, "seed": 0}
    runs = {
        "a": ({**common, "optimizer": {"lr": 0.1}}, {"val/top1": 0.5}),
        "b": ({**common, "optimizer": {"lr": 0.2, "betas": [0.9, 0.99]}}, {"test/top1": 0.6}),
    }
    for name, (settings, metrics) in runs.items():
        board = TensorBoard(str(tmp_path / name))
        board.log_metrics(metrics, 3)
        board.log_settings(settings)
        board.finalize("success")

    page, request = hparams_page(tmp_path), context.RequestContext()
    experiment = page.experiment_from_metadata(
        *(request, "", True, page.hparams_metadata(request, ""), None)
    )
    columns = [info.name for info in experiment.hparam_infos]
    assert columns[0] == "optimizer.lr"
    assert set(columns) == {"model.name", "seed", "optimizer.lr", "optimizer.betas"}
    assert {info.name.tag for info in experiment.metric_infos} == {"val/top1", "test/top1"}


def test_an_epoch_is_shown_once_a_step(tmp_path: Path) -> None:
    board = TensorBoard(str(tmp_path))
    board.log_metrics({"train/loss": 0.5, "epoch": 0}, 9)
    board.log_metrics({"val/loss": 0.6, "epoch": 0}, 9)
    board.log_metrics({"test/loss": 0.7, "epoch": 1}, 10)
    board.finalize("success")
    found = events(tmp_path)
    assert [(s.step, s.value) for s in found.Scalars("epoch")] == [(9, 0), (10, 1)]
    assert [s.step for s in found.Scalars("val/loss")] == [9]
