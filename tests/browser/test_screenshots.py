"""The README's pictures show something."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from vgglab.config.jobs import ScreenshotsConfig
from vgglab.dashboard.screenshots import take_screenshots

pytestmark = pytest.mark.browser

NAMES = [
    "compare",
    "report",
    "report_dark",
    "tensorboard_hparams",
    "tensorboard_images",
    "tensorboard_scalars",
]


def test_each_is_small_and_not_blank(trained_runs: Path, tmp_path: Path) -> None:
    run = trained_runs / "seed-0"
    job = ScreenshotsConfig(
        logs=str(trained_runs),
        run=str(run),
        comparison=str(run / "report.html"),  # any page
        sheet=None,
        output=str(tmp_path / "images"),
        run_dir=".",
    )
    with ThreadPoolExecutor() as apart:  # from the Playwright of the other tests
        apart.submit(take_screenshots, job).result()
    assert [path.stem for path in sorted((tmp_path / "images").glob("*.png"))] == NAMES
    for name in NAMES:
        path = tmp_path / "images" / f"{name}.png"
        assert path.stat().st_size <= 300_000
        with Image.open(path) as image:
            colours = sorted(image.convert("L").getcolors(256) or [], reverse=True)
            assert sum(count for count, _ in colours[3:]) > 0.02 * image.width * image.height, name
            ground = image.convert("L").getpixel((2, image.height // 2))
        assert isinstance(ground, int)
        assert ground < 50 if name == "report_dark" else ground > 200
