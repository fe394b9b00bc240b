"""TensorBoard as `scripts/dashboard.py` shows it to a person."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.conftest import ROOT

pytestmark = pytest.mark.browser

PATIENCE = 20_000  # milliseconds: of a machine that is busy
RUNS = ("seed-0/tensorboard", "seed-1/tensorboard")

Show = Callable[[str], Page]


@pytest.fixture(scope="module")
def address(trained_runs: Path) -> Iterator[str]:
    command = [sys.executable, str(ROOT / "scripts/dashboard.py"), str(trained_runs), "port=6800"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stdout is not None
        found = None
        while found is None:
            found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            assert process.poll() is None
        yield found[0]
        process.terminate()


@pytest.fixture
def show(page: Page, address: str) -> Show:
    def open_page(name: str) -> Page:
        page.goto(f"{address}#{name}")
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        return page

    return open_page


def only(board: Page, tag: str) -> Locator:
    """The part of the page that shows this tag alone, above the others."""
    board.locator("tf-tag-filterer input").fill(f"^{tag}$")
    found = board.locator("tf-category-paginated-view").first
    expect(found.get_by_text(f"^{tag}$", exact=True)).to_be_visible()
    return found


def test_charts_that_belong_together_are_one(show: Show) -> None:
    board = show("custom_scalars")
    cards = board.locator("tf-custom-scalar-multi-line-chart-card")
    expect(cards).to_have_count(5)
    lines = {
        "loss": ["train/loss", "val/loss"],
        "accuracy": ["train/top1", "val/top1", "val/top5"],
        "learning rate": ["lr"],
        "throughput (images/s)": ["throughput/images_per_second"],
        "data wait (share of training time)": ["throughput/data_wait_fraction"],
    }
    for title, tags in lines.items():
        card = cards.filter(has=board.get_by_text(title, exact=True))
        expect(card.get_by_text(f"Matches ({len(tags) * len(RUNS)})")).to_be_visible()
        drawn = card.locator("path.line[d*=L]")
        expect(drawn.nth(len(tags) * len(RUNS) - 1)).to_be_attached()


def test_hparams_can_be_compared_by_their_metrics(show: Show) -> None:
    board = show("hparams")
    cells = board.locator("vaadin-grid-cell-content")
    header = cells.filter(has_text=re.compile(r"^\s*test/top1\s*$"))
    for awaited in (header, *(cells.filter(has_text=run) for run in RUNS)):
        expect(awaited.first).to_be_attached()
    texts = [text.strip() for text in cells.all_inner_texts() if text.strip()]
    columns = texts[: texts.index(RUNS[0])]
    assert columns[2:4] == ["data.seed", "seed"]  # what differs comes first
    rows = [texts[texts.index(run) :][: len(columns) - 1] for run in RUNS]
    for row in rows:
        top1 = float(row[columns.index("test/top1") - 1])  # no text below "Show Metrics"
        assert 0.3 < top1 <= 1
    assert rows[0][columns.index("seed") - 1] == "0.0000"
    assert rows[1][columns.index("seed") - 1] == "1.0000"


@pytest.mark.parametrize(
    "tag",
    ["images/augmented", "network/filters", "network/grad_cam", "test/confusion", "test/mistakes"],
)
def test_there_are_images(tag: str, show: Show) -> None:
    board = show("images")
    pictures = only(board, tag).locator("tf-image-loader img")
    expect(pictures).to_have_count(len(RUNS))
    for picture in pictures.all():
        picture.evaluate("image => image.decode()")
        assert picture.evaluate("image => image.naturalWidth") >= 64


def test_the_network_is_drawn_and_opens_to_its_layers(show: Show) -> None:
    board = show("graphs")

    def node(name: str) -> Locator:
        # Its text and its title.
        return board.locator("text.nodelabel").filter(has_text=re.compile(f"^{name}{name}$"))

    for name in ("input", "stage1", "stage5", "avgpool", "classifier", "output"):
        expect(node(name)).to_be_visible()
    expect(node("conv3_2")).to_have_count(0)
    for _ in range(4):  # a click misses while the graph still moves into place
        node("stage3").dblclick(force=True)
        with suppress(AssertionError):
            expect(node("conv3_2")).to_be_visible(timeout=PATIENCE / 4)
            break
    expect(node("conv3_2")).to_be_visible()


def test_configuration_and_environment_are_there_to_read(show: Show) -> None:
    board = show("text")
    shown = only(board, "run/configuration/text_summary")
    expect(shown.get_by_text(re.compile("width: 0.125"))).to_have_count(len(RUNS))
    shown = only(board, "run/environment/text_summary")
    expect(shown.get_by_role("cell", name="versions.torch", exact=True)).to_have_count(len(RUNS))


def test_the_projector_shows_features_with_thumbnails(show: Show) -> None:
    board = show("projector")
    with board.expect_response(re.compile("sprite_image"), timeout=PATIENCE) as answer:
        board.reload()
    assert answer.value.ok
    inner = board.frame_locator("iframe").frame_locator("iframe")
    expect(inner.locator(".numDataPoints")).to_have_text("360")


def test_each_class_has_its_pr_curve(show: Show) -> None:
    cards = show("pr_curves").locator("tf-pr-curve-card")
    expect(cards).to_have_count(20)  # of the test, and of the last validation
    expect(cards.first.locator("path.line")).to_have_count(len(RUNS))


def test_weights_and_gradients_have_histograms(show: Show) -> None:
    board = show("histograms")
    for name in ("gradients/conv1_1", "weights/conv1_1"):
        histograms = only(board, name).locator("tf-histogram-loader")
        expect(histograms).to_have_count(len(RUNS))
        expect(histograms.first.locator("path").nth(2)).to_be_attached()  # over time
