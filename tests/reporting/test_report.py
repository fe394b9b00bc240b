"""The run's own page: whole, escaped, alone."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from vgglab.reporting.charts import Series, line_chart
from vgglab.reporting.confusion import confusion_section
from vgglab.reporting.history import CSVHistory
from vgglab.reporting.report import write_report

ENVIRONMENT: dict[str, Any] = {
    "command": "python scripts/train.py 'name=<script>alert(1)</script>'",
    "started": "2026-01-02T03:04:05+00:00",
    "versions": {"torch": "2.15.0", "vgglab": None},
    "git": {"commit": "0123abcd", "dirty": True, "diff_sha256": "feedbeef"},
    "hardware": {
        "cpu": "A Fast One",
        "cores": 8,
        "memory": 32 * 2**30,
        "gpus": [{"name": "Big GPU", "memory": 80 * 2**30}],
    },
    "os": "Linux",
}


def fill(run: Path) -> None:
    """Everything a finished run has."""
    (run / ".hydra").mkdir(parents=True)
    config = "name: <b>bold</b>\nmirror: https://example.org/data\n"
    (run / ".hydra" / "config.yaml").write_text(config)
    (run / ".hydra" / "overrides.yaml").write_text("- optimizer.lr=0.05\n- name=<u>\n")
    (run / "environment.json").write_text(json.dumps(ENVIRONMENT))
    results = {"test/loss": 0.04567, "test/top1": 0.98765, "test/top5": 0.99912}
    (run / "metrics.json").write_text(json.dumps(results))
    confusion = {"classes": ["<i>cat", "dog"], "matrix": [[31, 9], [0, 17]]}
    (run / "confusion.json").write_text(json.dumps(confusion))
    history = CSVHistory(str(run))
    for step in range(10):
        metrics = {"epoch": step // 5, "train/loss": 2 / (step + 1), "lr": 0.1}
        history.log_metrics({**metrics, "throughput/images_per_second": 1234.0}, step)
    history.log_metrics({"epoch": 1, "val/loss": 0.5, "val/top1": 0.9123, "val/top5": 0.99}, 9)


class Page(HTMLParser):
    """Checks that elements nest, and collects what a reader and a browser would see."""

    VOID = frozenset({"meta", "img", "line", "polyline", "circle"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)


def test_the_page_of_a_finished_run_holds_its_numbers(tmp_path: Path) -> None:
    run = tmp_path / "mine" / "2026-01-02"
    fill(run)
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path.read_text())
    for text in (
        "mine / 2026-01-02",
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
    ):
        assert text in page.text
    assert page.tags.count("figure") == 4
    assert page.tags.count("polyline") == 6
    assert "vgglab None" not in page.text


def test_what_people_wrote_is_text_and_not_markup(tmp_path: Path) -> None:
    fill(tmp_path)
    page = Page(write_report(tmp_path).read_text())
    assert not {"script", "i", "u"} & set(page.tags)
    for text in ("<script>alert(1)</script>", "<i>cat", "name: <b>bold</b>"):
        assert text in page.text


def test_the_page_asks_the_network_for_nothing(tmp_path: Path) -> None:
    fill(tmp_path)
    classes = [f"class {index}" for index in range(30)]  # a picture, not a table
    matrix = [[int(i == j) for j in range(30)] for i in range(30)]
    confusion = {"classes": classes, "matrix": matrix}
    (tmp_path / "confusion.json").write_text(json.dumps(confusion))
    html = write_report(tmp_path).read_text()
    page = Page(html)
    assert page.addresses
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not re.search(r"url\(|@import|<link|<script", html)
    assert "prefers-color-scheme: dark" in html


SHOWN = {
    "metrics.json": "98.77 %",
    "metrics.csv": "best val/top1",
    "confusion.json": "most often taken for",
    "environment.json": "A Fast One",
    ".hydra/config.yaml": "mirror:",
    ".hydra/overrides.yaml": "optimizer.lr=0.05",
}


@pytest.mark.parametrize("missing", SHOWN)
def test_a_missing_file_leaves_the_rest(tmp_path: Path, missing: str) -> None:
    fill(tmp_path)
    (tmp_path / missing).unlink()
    page = Page(write_report(tmp_path).read_text())
    assert [file for file, text in SHOWN.items() if text not in page.text] == [missing]
    assert ("did not reach its test" in page.text) == (missing == "metrics.json")


def test_an_empty_run_still_has_a_page(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path).read_text())
    assert "did not reach its test" in page.text
    assert "figure" not in page.tags


def test_a_run_outside_git_says_so(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text(json.dumps({**ENVIRONMENT, "git": None}))
    page = Page(write_report(tmp_path).read_text())
    assert "not in a git repository" in page.text
    assert "git checkout" not in page.text


def test_a_chart_stays_inside_its_frame_and_skips_what_is_not_a_number() -> None:
    points = [(0, 1.0), (50, float("nan")), (60, float("inf")), (100, -3.0)]
    html = line_chart("Loss", [Series("a", points), Series("none", [(1, float("nan"))])])
    (width, height) = map(float, re.findall(r'viewBox="0 0 (\d+) (\d+)"', html)[0])
    (line,) = re.findall(r'<polyline[^>]*points="([^"]*)"', html)
    places = [tuple(map(float, place.split(","))) for place in line.split()]
    assert len(places) == 2
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places)
    assert places[0][0] < places[1][0]
    assert places[0][1] < places[1][1]  # SVG counts downwards
    assert "none" not in html
    assert line_chart("Nothing", [Series("a", [(0, float("nan"))])]) == ""


@pytest.mark.parametrize("value", [0.0, 0.1, -5.0, 1e9])
def test_a_constant_has_a_chart(value: float) -> None:
    html = line_chart("lr", [Series("lr", [(0, value), (1, value)])])
    assert "<polyline" in html
    assert f"<b>{value:g}</b>" in html


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    html = line_chart("Loss", [Series("a", [(s, 1 / (s + 1)) for s in range(100_001)])])
    (line,) = re.findall(r'<polyline[^>]*points="([^"]*)"', html)
    assert 700 < len(line.split()) <= 1500
    assert "<b>9.9999e-06</b>" in html


def test_many_classes_show_the_hardest() -> None:
    count = 600
    matrix = [[10 * int(i == j) for j in range(count)] for i in range(count)]
    matrix[123][123], matrix[123][45] = 3, 7
    names = [f"class {index}" for index in range(count)]
    page = Page(confusion_section(names, matrix))
    assert "The 20 hardest of 600 classes" in page.text
    assert "class 123 30.0 % 10 class 45 (7)" in page.text
    assert page.tags.count("tr") == 1 + 20
    assert page.tags.count("img") == 1


def test_a_class_without_images_has_no_accuracy() -> None:
    page = Page(confusion_section(["a", "b"], [[4, 0], [0, 0]]))
    assert "a 100.0 % 4" in page.text
    assert page.tags.count("tr") == (1 + 2) + (1 + 1)
