"""Event files, read back with TensorBoard's own readers."""

import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from tensorboard import context
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
from tests.conftest import ROOT

from vgglab.reporting.tensorboard import TensorBoard, confusion_figure, flatten, image_grid


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


def test_the_hparams_page_shows_settings_and_final_metrics(tmp_path: Path) -> None:
    board = TensorBoard(str(tmp_path))
    board.log_metrics({"test/top1": 0.75}, 12)
    board.log_result({"optimizer": {"lr": 0.1}, "name": None}, {"test/top1": 0.75})
    board.finalize("success")

    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(tmp_path))
    page = backend_context.Context(TBContext(data_provider=provider, logdir=str(tmp_path)))
    request = api_pb2.ListSessionGroupsRequest(
        slice_size=10, allowed_statuses=[api_pb2.STATUS_SUCCESS]
    )
    request.col_params.add(metric=api_pb2.MetricName(tag="test/top1"))
    found = list_session_groups.Handler(context.RequestContext(), page, "", request).run()

    (row,) = found.session_groups
    assert row.hparams["optimizer.lr"].number_value == 0.1
    assert row.hparams["name"].string_value == "null"
    (metric,) = row.metric_values
    assert (metric.name.tag, metric.value, metric.training_step) == ("test/top1", 0.75, 12)
    assert len(events(tmp_path).Scalars("test/top1")) == 1


def test_flatten_keeps_plain_values_and_writes_the_others_as_json() -> None:
    nested = {"a": {"b": {"c": 1}, "d": True}, "e": None, "f": [1, "x"], "g": 0.5, "h": "s"}
    assert flatten(nested) == {
        "a.b.c": 1,
        "a.d": True,
        "e": "null",
        "f": '[1, "x"]',
        "g": 0.5,
        "h": "s",
    }


def test_small_grey_images_become_large_colour_tiles() -> None:
    images = torch.arange(3 * 8 * 8, dtype=torch.uint8).reshape(3, 1, 8, 8)
    grid = image_grid(images, columns=2)
    assert grid.dtype == torch.uint8
    assert grid.shape == (3, 2 * (64 + 2) + 2, 2 * (64 + 2) + 2)
    first = grid[:, 2:66, 2:66]
    assert torch.equal(first[:, ::8, ::8], images[0].expand(3, -1, -1))
    assert torch.equal(first[:, 7::8, 7::8], images[0].expand(3, -1, -1))


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (3, [0, 1, 2]), (5, [0, 1, 2])])
def test_a_single_large_image_keeps_its_size(channels: int, shown: list[int]) -> None:
    images = torch.randint(256, (1, channels, 70, 90), dtype=torch.uint8)
    assert torch.equal(image_grid(images), images[0, shown])


def test_confusion_colours_are_shares_of_the_row_and_texts_are_counts() -> None:
    figure = confusion_figure(torch.tensor([[30, 10], [0, 5]]), ["$cat", "dog"])
    (axes,) = figure.axes
    (image,) = axes.images
    assert image.get_array().tolist() == [[0.75, 0.25], [0.0, 1.0]]
    assert {(t.get_position(), t.get_text()) for t in axes.texts} == {
        ((0, 0), "30"),
        ((1, 0), "10"),
        ((1, 1), "5"),
    }
    assert [label.get_text() for label in axes.get_yticklabels()] == ["$cat", "dog"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


@pytest.mark.parametrize(
    ("count", "texts", "labels"), [(20, 20, True), (21, 0, True), (50, 0, True), (51, 0, False)]
)
def test_large_confusion_matrices_leave_out_what_cannot_be_read(
    count: int, texts: int, labels: bool
) -> None:
    names = [f"class {index}" for index in range(count)]
    (axes,) = confusion_figure(torch.eye(count), names).axes
    assert len(axes.texts) == texts
    assert ([label.get_text() for label in axes.get_xticklabels()] == names) == labels


def test_a_thousand_classes_can_be_drawn() -> None:
    figure = confusion_figure(torch.zeros(1000, 1000), [str(index) for index in range(1000)])
    figure.canvas.draw()


def listening(port: int) -> set[str]:
    """The addresses, as /proc/net writes them, where something of this machine listens."""
    rows = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if Path(table).exists():
            rows += [line.split() for line in Path(table).read_text().splitlines()[1:]]
    found = [(row[1].split(":"), row[3]) for row in rows]
    return {host for (host, at), state in found if int(at, 16) == port and state == "0A"}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="no list of sockets")
def test_the_command_of_the_readme_listens_on_loopback_alone(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    (command,) = re.findall(r"^uv run (tensorboard .*)$", readme, re.MULTILINE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "logs").mkdir()
    program = Path(sys.executable).with_name("tensorboard")
    with subprocess.Popen(
        [program, *command.split()[1:], f"--port={port}"], cwd=tmp_path, stderr=subprocess.DEVNULL
    ) as board:
        try:
            while not listening(port):
                assert board.poll() is None
                time.sleep(0.2)
            # 127.0.0.1 and ::1, in the byte order of a little-endian machine
            loopback = {"0100007F", "00000000000000000000000001000000"}
            assert listening(port) <= loopback
            with urllib.request.urlopen(f"http://localhost:{port}/", timeout=60) as page:
                assert b"TensorBoard" in page.read()
        finally:
            board.terminate()
