"""comparison.html in Chromium."""

import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.comparison.folders import read_all, run_folder
from tests.conftest import ROOT
from vgglab.comparison.groups import compare_runs
from vgglab.comparison.page import comparison_page

pytestmark = pytest.mark.browser

SCORES = {0.1: (0.5, 0.75), 0.01: (0.875,), 9: ()}


@pytest.fixture
def address(tmp_path: Path) -> str:
    """Three rows: of two seeds, of one, and of a run that failed."""
    for lr, scores in SCORES.items():
        for seed, score in enumerate(scores):
            history = "".join(f"{i},{i // 5},{2 - i / 20},{1 - i / 30}\n" for i in range(1, 21))
            run_folder(
                tmp_path / f"lr={lr},seed={seed}",
                {"seed": seed, "optimizer.lr": lr},
                metrics={"test/top1": score, "test/loss": 1 - score},
                history=f"step,epoch,train/loss,lr\n{history}",
            )
    run_folder(
        tmp_path / "failed", {"optimizer.lr": 9}, status={"status": "failed", "error": "no memory"}
    )
    path = tmp_path / "comparison.html"
    path.write_text(comparison_page(compare_runs(read_all(tmp_path), "test/top1"), tmp_path, None))
    return path.as_uri()


def column(page: Page, heading: str) -> list[str]:
    """The cells of the first table under a heading."""
    table = page.locator("table.runs").first
    heads = table.locator("thead th").all_inner_texts()
    place = 1 + [head.strip(" ▲▼") for head in heads].index(heading)
    return [t.strip() for t in table.locator(f"tbody td:nth-child({place})").all_inner_texts()]


def test_a_heading_sorts_its_table_both_ways(page: Page, address: str) -> None:
    page.goto(address)
    assert column(page, "optimizer.lr") == ["0.01", "0.1", "9"]
    head = page.locator("table.runs").first.locator("th", has_text="test/top1 %")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(page, "test/top1 %") == ["62.50 ± 17.68", "87.50", "-"]
    head.locator("button").press("Enter")  # without a mouse, too
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, "test/top1 %") == ["87.50", "62.50 ± 17.68", "-"]
    page.locator("th", has_text="optimizer.lr").locator("button").click()
    assert column(page, "optimizer.lr") == ["0.01", "0.1", "9"]
    assert head.get_attribute("aria-sort") is None


def test_the_curves_lie_in_their_charts_and_read_out_values(page: Page, address: str) -> None:
    page.goto(address)
    assert page.locator("figure").count() == 2
    chart = page.locator("figure svg").first
    frame = chart.bounding_box()
    assert frame is not None
    for line in chart.locator("polyline").all():
        box = line.bounding_box()
        assert box is not None
        assert frame["x"] <= box["x"] <= box["x"] + box["width"] <= frame["x"] + frame["width"]
        assert frame["y"] <= box["y"] <= box["y"] + box["height"] <= frame["y"] + frame["height"]
    assert not chart.get_by_text("#1 lr=0.01 1.5").first.is_visible()
    page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2)
    assert chart.locator("text:visible", has_text="#2 lr=0.1").count() == 1


def test_a_row_has_the_colour_of_its_curve(page: Page, address: str) -> None:
    page.goto(address)
    marks = page.locator("table.runs").first.locator("tbody .key")
    lines = page.locator("figure").first.locator("polyline:not(.faint)")
    for place in (0, 1):
        mark = marks.nth(place).evaluate(
            "element => getComputedStyle(element, '::before').borderTopColor"
        )
        assert lines.nth(place).evaluate("line => getComputedStyle(line).stroke") == mark


def test_light_and_dark_and_a_telephone(page: Page, address: str) -> None:
    page.goto(address)
    colours = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_it_is_readable_without_its_script(page: Page, address: str) -> None:
    browser = page.context.browser
    assert browser is not None
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(address)
    assert plain.locator("button").count() == 0
    assert plain.locator("table.runs").first.locator("tbody tr").count() == 3
    assert plain.get_by_text("failed: no memory").is_visible()
    context.close()


def test_the_page_of_real_runs_leads_to_theirs(
    page: Page, trained_runs: Path, tmp_path: Path
) -> None:
    command = [sys.executable, str(ROOT / "scripts/compare.py"), f"{trained_runs}/seed-*"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (written,) = tmp_path.glob("logs/compare/*/comparison.html")
    page.goto(written.as_uri())
    assert column(page, "n") == ["2"]
    assert page.locator("figure").count() == 4
    page.get_by_role("link", name="seed-1").click()
    assert "report.html" in page.url
    assert page.locator("h1").is_visible()
