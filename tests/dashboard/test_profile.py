"""Where the time goes."""

import json
import logging
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, schedule

from tests.conftest import TINY, Compose
from tests.dashboard.shown import tensors
from vgglab.config.schema import TrainConfig, parse
from vgglab.dashboard.profile import operator_table, timeline_figure
from vgglab.training.run import train


@pytest.fixture(scope="module")
def recorded() -> profile:
    """Three steps, each two products of matrices."""
    with profile(
        activities=[ProfilerActivity.CPU], schedule=schedule(wait=0, warmup=1, active=3, repeat=1)
    ) as found:
        for _ in range(4):
            for _ in range(2):
                torch.rand(256, 256) @ torch.rand(256, 256)
            found.step()
    return found


def test_the_table_has_each_operators_share(recorded: profile) -> None:
    _, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in operator_table(recorded.key_averages(), steps=3, rows=100).splitlines()[2:]
    ]
    by_name = {name: (float(ms), share, float(calls)) for name, ms, share, calls in rows}
    assert by_name["aten::mm"][2] == 2
    times = [ms for ms, _, _ in by_name.values()]
    assert times == sorted(times, reverse=True)
    assert sum(float(share[:-1]) for _, share, _ in by_name.values()) == pytest.approx(100, abs=1)
    assert not any("ProfilerStep" in name for name in by_name)


def test_the_table_has_no_more_rows_than_asked_for(recorded: profile) -> None:
    assert len(operator_table(recorded.key_averages(), steps=3, rows=2).splitlines()) == 4 + 2


def test_the_timeline_shows_callers_above_what_they_call(recorded: profile) -> None:
    (axes,) = timeline_figure(recorded.events()).axes
    row = {text.get_text().strip(): text.get_position()[1] for text in axes.texts}
    assert row["matmul"] < row["mm"]
    for a in axes.patches:
        for b in axes.patches:
            if a is not b and a.get_y() == b.get_y():
                assert min(a.get_x() + a.get_width(), b.get_x() + b.get_width()) <= (
                    max(a.get_x(), b.get_x()) + 1e-6
                )


def test_a_timeline_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no step"):
        timeline_figure([])


def test_a_profiled_run_shows_its_operators(composed: Compose, tmp_path: Path) -> None:
    profiled = ("debug=profile", "callbacks.profile.skip=1", "callbacks.profile.steps=2")
    job = parse(composed("train", *TINY, *profiled, run_dir=tmp_path), TrainConfig)
    train(job)
    shown = tensors(tmp_path, "profile/")
    ((step, table),) = shown["profile/operators/text_summary"]
    assert b"aten::convolution_backward" in table.item()
    # The fourth: one is skipped, one warms up, two are recorded.
    assert step == shown["profile/timeline"][0][0] == 3
    trace = json.loads((tmp_path / "profile/trace.pt.trace.json").read_text())
    assert any(event.get("name") == "aten::convolution_backward" for event in trace["traceEvents"])


@pytest.mark.parametrize("skip", [5, 6])  # its warm-up is the last step, or it does not begin
def test_training_that_is_too_short_for_a_profile_says_so(
    skip: int, composed: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    profiled = ("debug=profile", "trainer.max_epochs=1", f"callbacks.profile.skip={skip}")
    with caplog.at_level(logging.WARNING, "vgglab"):
        train(parse(composed("train", *TINY, *profiled, run_dir=tmp_path), TrainConfig))
    (line,) = [r.message for r in caplog.records if "profile" in r.message]
    assert line.startswith(
        f"no profile: training had 6 steps, and the first recorded one is number {skip + 2}"
    )
    assert not (tmp_path / "profile").exists()
