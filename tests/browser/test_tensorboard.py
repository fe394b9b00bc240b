"""TensorBoard as `scripts/dashboard.py` shows it to a person."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import ROOT

pytestmark = pytest.mark.browser

PATIENCE = 60_000  # milliseconds: of a machine that is busy
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
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.fixture
def show(page: Page, address: str) -> Show:
    def open_page(name: str) -> Page:
        page.goto(f"{address}#{name}")
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        return page

    return open_page


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
        drawn = card.locator("path.line").evaluate_all(
            "lines => lines.filter(line => (line.getAttribute('d') || '').length > 10).length"
        )
        assert drawn >= len(tags) * len(RUNS), title


def test_hparams_can_be_compared_by_their_metrics(show: Show) -> None:
    board = show("hparams")
    cells = board.locator("vaadin-grid-cell-content")
    header = cells.filter(has_text=re.compile(r"^\s*test/top1\s*$"))
    expect(header.first).to_be_attached()
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
    board.locator("tf-images-dashboard input").first.wait_for()
    board.locator("tf-tag-filterer input").fill(f"^{tag}$")
    pictures = board.locator("tf-image-loader").filter(has_text=tag)
    expect(pictures).to_have_count(len(RUNS))
    picture = pictures.first.locator("img")
    expect(picture).to_be_visible()
    picture.evaluate("image => image.decode()")
    assert picture.evaluate("image => image.naturalWidth") >= 64


def test_the_network_is_drawn_and_opens_to_its_layers(show: Show) -> None:
    board = show("graphs")
    for name in ("input", "stage1", "stage5", "avgpool", "classifier", "output"):
        expect(board.locator("text.nodelabel").get_by_text(name, exact=True)).to_be_visible()
    board.locator("text.nodelabel").get_by_text("stage3", exact=True).dblclick(force=True)
    expect(board.locator("text.nodelabel").get_by_text("conv3_2", exact=True)).to_be_visible()


def test_configuration_and_environment_are_there_to_read(show: Show) -> None:
    board = show("text")
    shown = board.locator("tf-text-loader")
    expect(shown.filter(has_text="run/configuration").first).to_contain_text("width: 0.125")
    environment = shown.filter(has_text="run/environment").first
    expect(environment.locator("td").get_by_text("versions.torch", exact=True)).to_be_attached()


def test_the_projector_shows_features_with_thumbnails(show: Show) -> None:
    board = show("projector")
    expect(board.get_by_text(re.compile(r"Points: 360"))).to_be_visible()
    expect(board.get_by_text(re.compile("Metadata:"))).to_be_visible()
    with board.expect_response(re.compile("sprite_image"), timeout=PATIENCE) as answer:
        board.reload()
    assert answer.value.ok


def test_each_class_has_its_pr_curve(show: Show) -> None:
    cards = show("pr_curves").locator("tf-pr-curve-card")
    expect(cards).to_have_count(10)
    expect(cards.first.locator("path.line")).to_have_count(len(RUNS))


def test_weights_and_gradients_have_histograms(show: Show) -> None:
    board = show("histograms")
    for name in ("gradients/conv1_1", "weights/conv1_1"):
        board.locator("tf-tag-filterer input").fill(f"^{name}$")
        histograms = board.locator("tf-histogram-loader").filter(has_text=name)
        expect(histograms).to_have_count(len(RUNS))
        assert histograms.first.locator("svg path").count() > 2  # over time
