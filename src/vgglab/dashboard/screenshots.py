"""scripts/screenshots.py: TensorBoard and the pages of trained runs, photographed in Chromium."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

from vgglab.config.jobs import ScreenshotsConfig
from vgglab.dashboard.serve import free_port, launch
from vgglab.errors import InputError
from vgglab.files import replace_file
from vgglab.reporting.terminal import console

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_PORT = 6016  # beside the one where somebody may be looking at TensorBoard
_RELOAD_SECONDS = 60
# Width and height in pixels: of a page the upper part, which says what it is.
_SIZES = {
    "scalars": (1280, 1060),
    "images": (1660, 1300),
    "hparams": (1660, 560),
    "report": (1280, 1560),
    "compare": (1280, 1100),
}
_LARGEST = 300_000  # bytes of a picture
# Of its palette and its size: the first that makes it small enough.
_COLOURS = (256, 128, 64)
_SCALES = (1.0, 0.8, 0.6, 0.4)
# TensorBoard's page, and what is on it once it has loaded.
_BOARDS = {
    "scalars": ("custom_scalars", "vz-line-chart2"),
    "images": ("images", "tf-image-loader img"),
    "hparams": ("hparams", "vaadin-grid"),
}
# TensorBoard opens the first two groups of images: the augmented ones make room for the test's.
_CLICKED = ("images", "test")
_SETTINGS = 2  # columns of HPARAMS before the metrics; what differs comes first
_PATIENCE_MS = 60_000
_SETTLE_MS = 4_000  # charts that are there are still being drawn


def take_screenshots(job: ScreenshotsConfig) -> None:
    """Write the README's pictures into `job.output`: PNGs, each below 300 KB.

    They are `tensorboard_scalars`, `tensorboard_images`, `tensorboard_hparams`, `report`,
    `report_dark`, `compare` and `predictions`; of the last two those whose files are given.

    Raises:
        InputError: Playwright or a browser is missing, or something to be photographed is.
        OSError: `job.output` cannot be written.
    """
    page = Path(job.run, "report.html")
    given = [page, *(Path(name) for name in (job.comparison, job.sheet) if name is not None)]
    for path in given:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
    if not Path(job.logs).is_dir():
        raise InputError(f"logs={job.logs}: no such folder")
    output = Path(job.output)
    with chromium() as browser:
        output.mkdir(parents=True, exist_ok=True)
        runs = launch(Path(job.logs), free_port(_PORT), _RELOAD_SECONDS)
        alone = launch(Path(job.run), free_port(_PORT), _RELOAD_SECONDS)
        for name, address in (("scalars", runs), ("images", alone), ("hparams", runs)):
            _keep(output / f"tensorboard_{name}.png", _board(browser, address, name))
        _keep(output / "report.png", _page(browser, page, "report", "light"))
        _keep(output / "report_dark.png", _page(browser, page, "report", "dark"))
        if job.comparison is not None:
            _keep(output / "compare.png", _page(browser, Path(job.comparison), "compare", "light"))
    if job.sheet is not None:
        _keep(output / "predictions.png", Path(job.sheet).read_bytes())


@contextmanager
def chromium() -> Iterator["Browser"]:
    """A browser without a window.

    Raises:
        InputError: Playwright or Chromium is missing.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise InputError("Playwright is missing, a development tool: uv sync") from error
    executable = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if executable is None:
        raise InputError("no Chromium here: on Debian, apt-get install chromium")
    with sync_playwright() as playwright:
        # Its sandbox refuses root, as whom containers run; it sees pages of ours alone.
        browser = playwright.chromium.launch(executable_path=executable, chromium_sandbox=False)
        yield browser
        browser.close()


@contextmanager
def _tab(browser: "Browser", name: str, scheme: Literal["light", "dark"]) -> Iterator["Page"]:
    width, height = _SIZES[name]
    tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    tab.set_default_timeout(_PATIENCE_MS)
    yield tab
    tab.close()


def _board(browser: "Browser", address: str, name: str) -> bytes:
    place, content = _BOARDS[name]
    with _tab(browser, name, "light") as tab:
        tab.goto(f"{address}#{place}")
        tab.locator(content).first.wait_for()
        for group in _CLICKED:
            heading = tab.locator("tf-category-paginated-view .heading", has_text=group)
            if heading.count():
                heading.first.click()
        tab.wait_for_timeout(_SETTLE_MS)
        chosen = tab.locator(".hparam-checkbox[checked]")
        for number in reversed(range(_SETTINGS, chosen.count())):
            chosen.nth(number).click()
        if chosen.count():
            chosen.first.scroll_into_view_if_needed()
        return tab.screenshot()


def _page(browser: "Browser", path: Path, name: str, scheme: Literal["light", "dark"]) -> bytes:
    with _tab(browser, name, scheme) as tab:
        tab.goto(path.resolve().as_uri())
        return tab.screenshot()


def _keep(path: Path, picture: bytes) -> None:
    replace_file(path, _compressed(picture))
    console.print(f"{path}  {path.stat().st_size / 1000:.0f} KB", soft_wrap=True, highlight=False)


def _compressed(picture: bytes) -> bytes:
    """The same below the limit, with fewer colours, then fewer pixels, as far as it takes."""
    with Image.open(io.BytesIO(picture), formats=["PNG"]) as opened:
        whole = opened.convert("RGB")
    for scale in _SCALES:
        size = (round(whole.width * scale), round(whole.height * scale))
        image = whole.resize(size, Image.Resampling.LANCZOS) if scale < 1 else whole
        for colours in _COLOURS:
            buffer = io.BytesIO()
            image.quantize(colours).save(buffer, "PNG", optimize=True)
            if buffer.tell() <= _LARGEST:
                return buffer.getvalue()
    raise InputError(f"a picture of {whole.width}x{whole.height} does not fit in 300 KB")
