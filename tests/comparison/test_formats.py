"""The comparison on the terminal, as Markdown, CSV and JSON."""

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from tests.comparison.folders import TEST, read_all, run_folder
from vgglab.comparison.formats import markdown, print_comparison, remarks, to_csv, to_json
from vgglab.comparison.groups import Comparison, compare_runs

SCORES = {0.1: (0.5, 0.75), 0.2: (0.875,)}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for lr, scores in SCORES.items():
        for seed, score in enumerate(scores):
            run_folder(
                tmp_path / f"lr={lr},seed={seed}",
                {"seed": seed, "optimizer.lr": lr},
                metrics={"test/top1": score, "test/loss": 0.123456789},
                status={"status": "finished", "seconds": 1800.0, "device_seconds": 7200.0},
            )
    return tmp_path


def comparison(root: Path) -> Comparison:
    return compare_runs(read_all(root), "test/top1")


def printed(found: Comparison, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), markup=False, emoji=False)
    print_comparison(found, console, None)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_terminal_has_means_deviations_and_the_best(runs: Path) -> None:
    lines = printed(comparison(runs), 160).splitlines()
    best, other = (line.split() for line in lines if line[:1] in "12")
    assert best[:5] == ["1", "0.2", "1", "87.50", "*"]
    assert other[:6] == ["2", "0.1", "2", "62.50", "±", "17.68"]


def test_losses_with_and_without_smoothing_are_not_one_measure(tmp_path: Path) -> None:
    smooth = {"loss.label_smoothing": 0.1}
    metrics = {"test/top1": 0.75, "test/loss": 1.0}
    run = run_folder(tmp_path / "run", smooth, metrics=metrics)
    run_folder(tmp_path / "other", {**smooth, "optimizer.lr": 1}, metrics={"test/top1": 0.5})
    assert comparison(tmp_path).best("test/top1") == 0.75
    assert list(comparison(tmp_path).smoothing) == [0.1]
    test = {"checkpoint": str(run / "checkpoints/best.ckpt")}
    better = {"test/top1": 1.0, "test/loss": 0.5}
    run_folder(tmp_path / "test", test, base=TEST, metrics=better)
    found = comparison(tmp_path)
    said = "the losses are not one measure: label smoothing is 0 in row 1, 0.1 in row 2"
    assert said in list(remarks(found, None))
    assert (found.best("test/loss"), found.best("test/top1")) == (None, 1.0)


@pytest.mark.parametrize("width", [40, 80, 160])
def test_a_narrow_terminal_has_the_table_in_parts(runs: Path, width: int) -> None:
    changes = {f"data.setting_{i}": f"value_{i}" for i in range(12)}
    run_folder(runs / "many", changes, metrics={"test/top1": 0.1})
    text = printed(comparison(runs), width)
    assert max(map(len, text.splitlines())) <= width
    for i in range(12):
        assert f"value_{i}" in text  # no cell is cut or folded
    lines = [line for line in text.splitlines() if line.startswith("3 ")]
    assert len(lines) >= {40: 5, 80: 2, 160: 1}[width]


def test_markdown_keeps_its_columns_whatever_people_wrote(runs: Path) -> None:
    changes = {"name": "a|b\n*c* <script>", "optimizer.lr": 0.3}
    run_folder(runs / "x", changes, metrics={"test/top1": 0.25, "a|b": 1.0})
    table, notes = markdown(comparison(runs), None).split("\n\n")
    rows = [line.replace(r"\|", "").split("|") for line in table.splitlines()]
    assert len({len(row) for row in rows}) == 1
    assert len(rows) == 2 + 3
    assert "<script>" not in table.replace(r"\<script\>", "")
    assert "**87.50**" in table
    assert notes.startswith("- 4 runs in 3 rows")


def test_csv_has_a_line_a_run_in_full(runs: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison(runs)))))
    assert [(row["row"], row["seed"], row["optimizer.lr"]) for row in rows] == [
        ("1", "0", "0.2"),
        ("2", "0", "0.1"),
        ("2", "1", "0.1"),
    ]
    assert {row["test/loss"] for row in rows} == {"0.123456789"}
    assert [float(row["test/top1"]) for row in rows] == [0.875, 0.5, 0.75]
    assert rows[0]["run"] == str(runs / "lr=0.2,seed=0")
    assert (rows[0]["seconds"], rows[0]["device_hours"]) == ("1800.0", "2.0")


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@SUM(A1)", "\t=1", "=cmd|' /C calc'!A0"])
def test_csv_holds_no_formula(tmp_path: Path, text: str) -> None:
    run_folder(tmp_path / "a", {"name": text}, metrics={text: 1.0})
    run_folder(tmp_path / "b", {"name": "-0.5"})
    head, *rows = csv.reader(io.StringIO(to_csv(comparison(tmp_path))))
    cells = [cell for row in (head, *rows) for cell in row]
    assert any(text.strip() in cell for cell in cells)
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "@", "\t") or cell[:2] == "-x"]


def test_json_has_what_a_program_needs(runs: Path) -> None:
    run_folder(runs / "diverged", {"optimizer.lr": 9}, metrics={"test/top1": float("nan")})
    found = json.loads(to_json(comparison(runs)), parse_constant=pytest.fail)
    assert found["settings"] == ["optimizer.lr"]
    one, two, diverged = found["groups"]
    assert one["figures"]["test/top1"] == {"mean": 0.875, "deviation": None, "n": 1}
    assert two["figures"]["test/top1"]["n"] == 2
    assert two["settings"] == {"optimizer.lr": "0.1"}
    assert [run["seed"] for run in two["runs"]] == [0, 1]
    assert diverged["figures"]["test/top1"]["mean"] is None


def test_remarks_say_what_the_table_does_not(runs: Path) -> None:
    run_folder(runs / "again", {"seed": 1, "optimizer.lr": 0.1}, metrics={"test/top1": 0.5})
    lines = list(remarks(comparison(runs), 2.5))
    assert lines == [
        "4 runs in 2 rows: mean ± sample standard deviation over the seeds",
        "row 2 has seed 1 more than once: the mean of these runs counts as one",
        "together 6 device-hours, which cost 15.00 at 2.5 each; of 1 run the time is not known",
    ]


def test_a_terminal_obeys_nothing_of_what_is_shown(tmp_path: Path) -> None:
    run_folder(tmp_path / "a", {"name": "\x1b[31mred"}, metrics={"\x1b[2Jtop": 1.0})
    run_folder(tmp_path / "b", {"name": "plain"})
    text = printed(comparison(tmp_path), 120)
    assert "\x1b" not in text
    assert "[31mred" in text
