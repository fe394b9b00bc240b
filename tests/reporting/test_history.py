"""metrics.csv keeps everything, once, across interruptions."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.utilities import rank_zero_only

from vgglab.errors import InputError
from vgglab.reporting.history import CSVHistory, read_history


def test_rows_are_on_disk_as_they_are_logged(tmp_path: Path) -> None:
    history = CSVHistory(str(tmp_path / "run"))
    path = tmp_path / "run" / "metrics.csv"
    assert not path.exists()
    history.log_metrics({"epoch": 0, "train/loss": 0.1 + 0.2}, 0)
    assert path.read_text() == f"step,epoch,train/loss\n0,0,{0.1 + 0.2!r}\n"
    history.log_metrics({"epoch": 0, "train/loss": 2.0}, 5)
    assert read_history(path) == [
        {"step": 0, "epoch": 0, "train/loss": 0.1 + 0.2},
        {"step": 5, "epoch": 0, "train/loss": 2.0},
    ]


def test_one_step_has_one_row_and_new_metrics_become_columns(tmp_path: Path) -> None:
    history = CSVHistory(str(tmp_path))
    history.log_metrics({"epoch": 0, "train/loss": 3.0}, 0)
    history.log_metrics({"epoch": 0, "train/loss": 2.0}, 1)
    history.log_metrics({"epoch": 0, "val/top1": 0.5, "a,b": 7.0}, 1)
    history.log_metrics({"epoch": 1, "train/loss": 1.0}, 2)
    path = tmp_path / "metrics.csv"
    assert path.read_text() == (
        'step,epoch,train/loss,val/top1,"a,b"\n0,0,3.0,,\n1,0,2.0,0.5,7.0\n2,1,1.0,,\n'
    )
    assert read_history(path)[1] == {
        "step": 1,
        "epoch": 0,
        "train/loss": 2.0,
        "val/top1": 0.5,
        "a,b": 7.0,
    }
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_metric_logged_twice_at_a_step_has_its_last_value(tmp_path: Path) -> None:
    history = CSVHistory(str(tmp_path))
    history.log_metrics({"epoch": 0, "val/top1": 1 / 3}, 0)
    history.log_metrics({"epoch": 0, "val/top1": 0.5}, 0)
    assert (tmp_path / "metrics.csv").read_text() == "step,epoch,val/top1\n0,0,0.5\n"


def test_resume_drops_what_is_repeated_and_keeps_the_rest_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    # 0.50 is not how a float is written today: the line must not go through one.
    path.write_text("step,epoch,train/loss\n0,0,0.50\n1,0,0.40\n2,0,0.30\n3,0,0.2")
    history = CSVHistory(str(tmp_path), resume_step=2)
    history.log_metrics({"epoch": 0, "train/loss": 9.0, "val/loss": 8.0}, 2)
    assert path.read_text() == (
        "step,epoch,train/loss,val/loss\n0,0,0.50,\n1,0,0.40,\n2,0,9.0,8.0\n"
    )


def test_an_interrupted_run_has_the_history_of_an_uninterrupted_one(tmp_path: Path) -> None:
    def log(history: CSVHistory, steps: range) -> None:
        for step in steps:
            history.log_metrics({"epoch": step // 4, "train/loss": 1 / (step + 1)}, step)
            if step % 4 == 3:
                history.log_metrics({"epoch": step // 4, "val/top1": step / 10}, step)

    log(CSVHistory(str(tmp_path / "whole")), range(10))
    log(CSVHistory(str(tmp_path / "parts")), range(7))
    log(CSVHistory(str(tmp_path / "parts"), resume_step=4), range(4, 10))
    whole, parts = (tmp_path / name / "metrics.csv" for name in ("whole", "parts"))
    assert parts.read_bytes() == whole.read_bytes()


def test_a_new_run_replaces_the_history_only_once_it_has_something_to_say(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,epoch,train/loss\n0,0,5.0\n1,0,4.0\n")
    history = CSVHistory(str(tmp_path))
    assert len(read_history(path)) == 2
    history.log_metrics({"epoch": 0, "train/loss": 1.0}, 0)
    assert read_history(path) == [{"step": 0, "epoch": 0, "train/loss": 1.0}]


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    CSVHistory(str(tmp_path)).log_metrics({"train/loss": 1.0}, 0)
    assert not list(tmp_path.iterdir())


@settings(deadline=None)  # it writes files
@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcd"), st.floats(allow_nan=False), min_size=1),
        min_size=1,
        max_size=6,
    )
)
def test_what_is_read_is_what_was_logged(
    tmp_path_factory: pytest.TempPathFactory, logged: list[dict[str, float]]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    history = CSVHistory(str(folder))
    for step, metrics in enumerate(logged):
        history.log_metrics(metrics, step)
    assert read_history(folder / "metrics.csv") == [
        {"step": step, **metrics} for step, metrics in enumerate(logged)
    ]


def test_reading_names_a_damaged_line_and_ignores_an_unfinished_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,epoch,loss\n0,0,1.5\n1,0,1e-")
    assert read_history(path) == [{"step": 0, "epoch": 0, "loss": 1.5}]
    path.write_text("step,epoch,loss\n0,0,1.5\n1,zero,1.0\n")
    with pytest.raises(InputError, match="line 3"):
        read_history(path)
    path.write_bytes(b"step,a\n\xff,1\n")
    with pytest.raises(InputError, match=r"cannot read .*metrics\.csv"):
        read_history(path)
    assert read_history(tmp_path / "none.csv") == []
