"""`comparison.html`: whole, escaped, alone."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.comparison.folders import read_all, run_folder
from tests.reporting.pages import Page
from vgglab.comparison.groups import Comparison, compare_runs
from vgglab.comparison.overlay import overlaid_curves
from vgglab.comparison.page import comparison_page


def history(steps: int, last: float) -> str:
    rows = [f"{i},{i // 10},{last + steps - i},{last},0.5,0.1" for i in range(1, steps + 1)]
    return "step,epoch,train/loss,val/loss,val/top1,lr\n" + "\n".join(rows) + "\n"


def fill(root: Path, groups: int, seeds: int, steps: int = 20) -> Path:
    for group in range(groups):
        for seed in range(seeds):
            run_folder(
                root / f"group {group}/{seed}",
                {"seed": seed, "optimizer.lr": 0.1 * (group + 1)},
                metrics={"test/top1": 0.9 - 0.01 * group},
                history=history(steps, 1.0 + group),
            )
    return root


def copies(root: Path, count: int, steps: int) -> Comparison:
    """So many groups of one long run each."""
    (run,) = read_all(fill(root, 1, 1, steps))
    assert run.trained is not None
    lrs = ({**run.trained.values, "optimizer.lr": str(lr)} for lr in range(count))
    trained = [replace(run.trained, values=lr, written=lr) for lr in lrs]
    return compare_runs([replace(run, trained=each) for each in trained], "test/top1")


def html_of(root: Path, price: float | None = None) -> str:
    return comparison_page(
        compare_runs(read_all(root), "test/top1"), root / "logs/compare/x", price
    )


def test_the_page_has_both_tables_and_the_curves(tmp_path: Path) -> None:
    page = Page(html_of(fill(tmp_path, groups=2, seeds=3)))
    assert page.tags.count("table") == 2
    assert page.tags.count("figure") == 4
    for text in ("optimizer.lr", "90.00", "± 0.00", "group 1/2", "#1 lr=0.1", "Learning rate"):
        assert text in page.text


def test_seeds_share_a_colour_with_their_mean(tmp_path: Path) -> None:
    charts = overlaid_curves(compare_runs(read_all(fill(tmp_path, 2, 3)), "test/top1"))
    classes = re.findall(r'<polyline class="line ([^"]*)"', charts.split("</figure>")[0])
    assert sorted(classes) == ["c0", *["c0 faint"] * 3, "c1", *["c1 faint"] * 3]


def test_one_seed_is_one_line(tmp_path: Path) -> None:
    charts = overlaid_curves(compare_runs(read_all(fill(tmp_path, 2, 1)), "test/top1"))
    assert re.findall(r'<polyline class="line ([^"]*)"', charts.split("</figure>")[0]) == [
        "c0",
        "c1",
    ]


def test_many_rows_are_told_apart_and_the_first_are_named(tmp_path: Path) -> None:
    charts = overlaid_curves(copies(tmp_path, 14, steps=20))
    classes = re.findall(r'<polyline class="line ([^"]*)"', charts.split("</figure>")[0])
    assert len(set(classes)) == 14
    assert sum("faint" in name for name in classes) == 2
    assert "#12 lr" in charts
    assert "#13 lr" not in charts


def test_fifty_long_runs_stay_small(tmp_path: Path) -> None:
    charts = overlaid_curves(copies(tmp_path, 50, steps=1500))
    assert len(charts) < 1_900_000
    (line, *_) = re.findall(r'<polyline[^>]*points="([^"]*)"', charts)
    assert 200 < len(line.split()) <= 360


def test_a_long_curve_is_averaged(tmp_path: Path) -> None:
    saw = "\n".join(f"{i},{i % 2}" for i in range(42_000))
    run_folder(tmp_path / "a", history=f"step,train/loss\n{saw}\n")
    charts = overlaid_curves(compare_runs(read_all(tmp_path), "test/top1"))
    assert "<b>0.5</b>" in charts


def test_what_people_wrote_is_text_and_not_markup(tmp_path: Path) -> None:
    for name in ("<script>alert(1)</script>", "<i>x"):
        run_folder(
            tmp_path / name.replace("/", "_"),
            {"name": name},
            metrics={"<u>": 1.0},
            status={"status": "failed", "error": "<b>no"},
        )
    html = html_of(tmp_path)
    page = Page(html)
    assert not {"i", "u"} & set(page.tags)
    assert page.tags.count("script") == 1
    assert "<i>x" in page.text
    assert "failed: <b>no" in page.text


def test_the_page_asks_the_network_for_nothing(tmp_path: Path) -> None:
    fill(tmp_path, 2, 2)
    folder = tmp_path / "group 1/0"
    (folder / "report.html").touch()
    html = html_of(tmp_path)
    assert not re.search(r"url\(|@import|<link|src=|fetch\(|https?:", html)
    # relative, so that a copied folder of logs keeps its links
    assert Page(html).addresses == ["../../../group%201/0/report.html"]


@pytest.mark.parametrize("count", [20, 21])
def test_a_long_list_of_runs_is_folded(tmp_path: Path, count: int) -> None:
    html = comparison_page(copies(tmp_path, count, steps=1), tmp_path, None)
    assert ("<summary>Runs" in html) == (count > 20)


def test_all_settings_are_there_where_a_choice_stands_for_some(tmp_path: Path) -> None:
    run_folder(tmp_path / "a", choices={"optimizer": "sgd"})
    run_folder(tmp_path / "b", {"optimizer.momentum": 0.5}, choices={"optimizer": "other"})
    page = Page(html_of(tmp_path))
    assert "All settings that differ" in page.text
    assert "optimizer= stands for 1 setting: optimizer.momentum" in page.text
