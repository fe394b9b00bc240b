"""The run's own page: whole, escaped, alone."""

import re
from pathlib import Path

import pytest

from tests.reporting.pages import ENVIRONMENT, STATUS, Page, change, fill
from vgglab.config.jobs import ReportConfig
from vgglab.errors import InputError
from vgglab.reporting.report import report, write_report


def written(run: Path) -> Page:
    return Page(write_report(run).read_text())


def test_the_page_of_a_finished_run_holds_its_numbers(tmp_path: Path) -> None:
    run = tmp_path / "mine" / "2026-01-02"
    fill(run)
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path.read_text())
    for text in (
        "mine / 2026-01-02",
        "started 2026-01-02T03:04:05+00:00 Finished in 1 h 6 min",
        "98.77 % test/top1",
        "99.91 % test/top5",
        "0.04567 test/loss",
        "91.23 % best val/top1 (epoch 1)",
        "git checkout 0123abcd uv run python scripts/train.py",
        "feedbeef",
        "optimizer.lr=0.05 name=<u>",
        "A Fast One, 8 cores, 32 GiB",
        "Big GPU (80 GiB)",
        "torch 2.15.0",
        "77.5 %",  # of the cats, 31 of 40
        "dog (9)",
        "dog 98.7 % is <i>cat 0.4 % test image 1,234",
        "1,204 images/s",  # 1,204.5, to even
        "2 % of the time waiting for data",
        "31 % of peak arithmetic",
        "1 h 6 min training and test",
        "10 device-hours",
        "9 devices",
        "2 attempts",
        "1.5 million parameters, 2.3 billion multiply-adds an image of 3 x 32 x 32",
    ):
        assert text in page.text
    assert page.tags.count("svg") == 5
    assert page.tags.count("polyline") == 7
    assert "vgglab None" not in page.text


def test_one_device_is_one(tmp_path: Path) -> None:
    fill(tmp_path)
    change(tmp_path, "status", STATUS | {"devices": 1})
    assert "1 device " in f"{written(tmp_path).text} "


def test_what_people_wrote_is_text_and_not_markup(tmp_path: Path) -> None:
    fill(tmp_path)
    change(tmp_path, "status", STATUS | {"status": "failed", "error": "<script>x</script>"})
    page = written(tmp_path)
    assert not {"script", "i", "u"} & set(page.tags)
    for text in (
        "<script>alert(1)</script>",
        "<script>x</script>",
        "<i>cat",
        "conv1<i>",
        "train/<u>/7.jpg: empty file",
        "name: <b>bold</b>",
    ):
        assert text in page.text


def test_the_page_asks_the_network_for_nothing(tmp_path: Path) -> None:
    fill(tmp_path)
    classes = [f"class {index}" for index in range(30)]  # a picture, not a table
    matrix = [[int(i == j) for j in range(30)] for i in range(30)]
    change(tmp_path, "confusion", {"classes": classes, "matrix": matrix})
    html = write_report(tmp_path).read_text()
    page = Page(html)
    assert len(page.addresses) == 2
    assert all(
        re.match(r"data:image/(png|jpeg);base64,[\w+/=]+$", found) for found in page.addresses
    )
    assert not re.search(r"url\(|@import|<link|<script", html)
    assert "prefers-color-scheme: dark" in html


SHOWN = {
    "metrics.json": "98.77 %",
    "metrics.csv": "best val/top1",
    "confusion.json": "most often taken for",
    "mistakes.json": "Worst mistakes",
    "skipped.json": "Skipped images: 1",
    "environment.json": "A Fast One",
    "network.json": "multiply-adds",
    "status.json": "10 device-hours",
    ".hydra/config.yaml": "mirror:",
    ".hydra/overrides.yaml": "optimizer.lr=0.05",
}


@pytest.mark.parametrize("missing", SHOWN)
def test_a_missing_file_leaves_the_rest(tmp_path: Path, missing: str) -> None:
    fill(tmp_path)
    (tmp_path / missing).unlink()
    page = written(tmp_path)
    gone = [file for file, text in SHOWN.items() if text not in page.text]
    # Without what it was composed of, nobody can tell what the overrides meant.
    with_it = [".hydra/overrides.yaml"] if missing == ".hydra/config.yaml" else []
    assert gone == [missing, *with_it]


def test_an_empty_run_still_has_a_page(tmp_path: Path) -> None:
    page = written(tmp_path)
    assert "Did not finish This page shows how far it got" in page.text
    assert "figure" not in page.tags


def test_numbers_that_are_not_finite_are_no_problem(tmp_path: Path) -> None:
    fill(tmp_path)
    change(tmp_path, "metrics", {"test/top1": float("nan"), "test/loss": float("inf")})
    rows = "step,epoch,train/loss,val/top1\n0,0,nan,nan\n1,0,inf,0.5\n2,1,,nan\n"
    (tmp_path / "metrics.csv").write_text(rows)
    page = written(tmp_path)
    assert "50.00 % best val/top1 (epoch 0)" in page.text
    assert "inf test/loss" in page.text


def test_a_long_run_of_many_classes_has_a_small_page(tmp_path: Path) -> None:
    fill(tmp_path)
    count = 1000
    names = [f"a class with quite a long name, number {i}" for i in range(count)]
    matrix = [[(i * j) % 7 // 6 for j in range(count)] for i in range(count)]
    change(tmp_path, "confusion", {"classes": names, "matrix": matrix})
    rows = [f"{s},{s // 100},{s % 13},{s % 7},{s % 5},{s % 11}" for s in range(8_000)]
    head = "step,epoch,train/loss,val/loss,train/top1,throughput/images_per_second"
    (tmp_path / "metrics.csv").write_text("\n".join([head, *rows, ""]))
    assert write_report(tmp_path).stat().st_size < 700_000


def test_pages_are_written_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        fill(folder)
    report(ReportConfig(runs=[str(folder) for folder in folders], run_dir="."))
    assert capsys.readouterr().out.split() == [str(folder / "report.html") for folder in folders]
    assert all((folder / "report.html").exists() for folder in folders)


def test_a_folder_without_a_run_is_bad_input(tmp_path: Path) -> None:
    fill(tmp_path / "mine")
    job = ReportConfig(runs=[str(tmp_path / "mine"), str(tmp_path)], run_dir=".")
    with pytest.raises(InputError, match="holds no run"):
        report(job)
    assert not (tmp_path / "mine/report.html").exists()


def test_the_page_of_a_run_that_goes_on_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    change(tmp_path, "status", STATUS | {"status": "running", "ended": None})
    job = ReportConfig(runs=[str(tmp_path)], run_dir=".")
    report(job)
    assert "Did not end" in (tmp_path / "report.html").read_text()
    monkeypatch.setattr("vgglab.reporting.report.is_occupied", lambda folder: folder == tmp_path)
    report(job)
    assert "Still running" in (tmp_path / "report.html").read_text()


def test_a_run_outside_git_says_so(tmp_path: Path) -> None:
    change(tmp_path, "environment", {**ENVIRONMENT, "git": None})
    page = written(tmp_path)
    assert "not in a git repository" in page.text
    assert "git checkout" not in page.text
