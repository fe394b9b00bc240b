"""The run's own page as a person sees it."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.reporting.pages import STATUS, change, fill, mistake
from vgglab.reporting.report import write_report

pytestmark = pytest.mark.browser

# Every line's points beside its frame, in the same units.
LINES = """() => [...document.querySelectorAll('svg')].map(svg => {
    const box = svg.viewBox.baseVal;
    return [...svg.querySelectorAll('polyline')].map(line => [...line.points].every(
        p => p.x >= 0 && p.x <= box.width && p.y >= 0 && p.y <= box.height) && line.points.length);
})"""
PICTURES = "() => [...document.images].map(i => i.complete && i.naturalWidth)"
# WCAG's contrast of a text with the first background below it that is not transparent.
CONTRASTS = """() => {
    const rgb = text => text.match(/[\\d.]+/g).map(Number);
    const light = colour => rgb(colour).slice(0, 3).map(c => c / 255).map(
        c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4
    ).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = element => {
        const colour = getComputedStyle(element).backgroundColor;
        return rgb(colour)[3] === 0 ? ground(element.parentElement) : colour;
    };
    const found = {};
    for (const name of ['h1', 'header p', 'h2', '.note', '.tiles b', '.tiles div', '.key',
                        '.wrong', 'small', 'th', 'pre', 'dt', 'dd', 'summary']) {
        const element = document.querySelector(name);
        const both = [getComputedStyle(element).color, ground(element)].map(light);
        found[name] = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    }
    return found;
}"""
SMALLEST_LETTERS = """() => Math.min(...[...document.querySelectorAll('svg > text')].map(
    text => parseFloat(getComputedStyle(text).fontSize) * text.getCTM().a))"""


def overflow(page: Page) -> float:
    """How many pixels the page is wider than its window."""
    return float(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


def test_the_page_of_a_trained_run_shows_its_curves_and_pictures(
    page: Page, trained_runs: Path
) -> None:
    page.goto((trained_runs / "seed-0/report.html").as_uri())
    assert page.locator(".banner").inner_text().startswith("Finished in")
    charts = page.evaluate(LINES)
    assert len(charts) >= 4
    assert all(points > 1 for lines in charts for points in lines)
    pictures = page.evaluate(PICTURES)
    mistakes = page.locator(".mistake").count()
    assert len(pictures) == mistakes > 0
    assert min(pictures) >= 64
    assert page.locator("table.confusion tbody tr").count() == 10
    assert page.get_by_text("uv run scripts/replay.py").is_visible()
    page.set_viewport_size({"width": 390, "height": 844})
    assert overflow(page) <= 0


def test_the_mouse_reads_the_curves(page: Page, tmp_path: Path) -> None:
    fill(tmp_path)
    page.goto(write_report(tmp_path).as_uri())
    reading = page.locator("svg").first.locator(".at > g").nth(4)
    assert not reading.is_visible()
    page.locator("svg").first.locator(".strip").nth(4).hover()
    assert reading.is_visible()
    assert "train/loss 0.4" in reading.text_content().replace("step 4", "")  # 2 / 5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_by_day_and_by_night(page: Page, tmp_path: Path, scheme: str) -> None:
    fill(tmp_path)
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(write_report(tmp_path).as_uri())
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = max(map(int, re.findall(r"\d+", ground)))
    assert brightness > 200 if scheme == "light" else brightness < 50
    contrasts = page.evaluate(CONTRASTS)
    assert {name: ratio for name, ratio in contrasts.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("count", [12, 1000])
def test_long_names_stay_inside_the_window(
    page: Page, tmp_path: Path, width: int, count: int
) -> None:
    fill(tmp_path)
    names = [f"{'Pneumonoultramicroscopic' * 3}_{i}" for i in range(count)]
    matrix = [[int(i != j) for j in range(count)] for i in range(count)]
    change(tmp_path, "confusion", {"classes": names, "matrix": matrix})
    wrong = [mistake(true=names[0], predicted=names[1]) for _ in range(32)]
    change(tmp_path, "mistakes", {"mistakes": wrong})
    change(tmp_path, "status", STATUS | {"status": "failed", "error": "x" * 300})
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(write_report(tmp_path).as_uri())
    assert overflow(page) <= 0
    assert page.evaluate(SMALLEST_LETTERS) > 9  # pixels


def test_on_paper_it_is_light_and_has_no_folded_parts(page: Page, tmp_path: Path) -> None:
    fill(tmp_path)
    page.emulate_media(media="print", color_scheme="dark")
    page.goto(write_report(tmp_path).as_uri())
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("summary").first.is_visible()
    assert page.locator("svg").first.is_visible()
