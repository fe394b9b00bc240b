"""What the README's pictures need, and their size. tests/browser looks at the pictures."""

import io
import random
import sys
from pathlib import Path

import pytest
from PIL import Image

from vgglab.config.jobs import ScreenshotsConfig
from vgglab.dashboard import screenshots
from vgglab.dashboard.screenshots import _compressed, take_screenshots
from vgglab.errors import InputError


def job(folder: Path, **changes: str) -> ScreenshotsConfig:
    """Of a folder with one run, which has a page."""
    run = folder / "logs/mine"
    run.mkdir(parents=True)
    (run / "report.html").touch()
    settings = {"logs": str(folder / "logs"), "run": str(run), "comparison": None, "sheet": None}
    output = str(folder / "images")
    return ScreenshotsConfig.model_validate(
        {**settings, "output": output, "run_dir": ".", **changes}
    )


@pytest.mark.parametrize("setting", ["logs", "run", "comparison", "sheet"])
def test_what_is_not_there_is_bad_input(setting: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.*no such f"):
        take_screenshots(job(tmp_path, **{setting: str(tmp_path / "nowhere")}))
    assert not (tmp_path / "images").exists()


def test_a_missing_playwright_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    with pytest.raises(InputError, match="uv sync"):
        take_screenshots(job(tmp_path))
    assert not (tmp_path / "images").exists()


def test_a_missing_browser_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("playwright")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no Chromium"):
        take_screenshots(job(tmp_path))


def picture(noise: bool) -> bytes:
    size = (80, 60)
    image = Image.new("RGB", size, "white")
    if noise:
        image = Image.frombytes("RGB", size, random.Random(0).randbytes(3 * 80 * 60))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_that_is_too_large_loses_colours_then_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = []
    for limit in (20_000, 2_000):
        monkeypatch.setattr(screenshots, "_LARGEST", limit)
        small = _compressed(picture(noise=True))
        assert len(small) <= limit
        with Image.open(io.BytesIO(small)) as image:
            sizes.append(image.size)
    assert sizes[0] == (80, 60)
    assert sizes[1] < sizes[0]
    monkeypatch.setattr(screenshots, "_LARGEST", 100)
    with pytest.raises(InputError, match="80x60"):
        _compressed(picture(noise=True))


def test_a_picture_of_few_colours_keeps_them_all() -> None:
    with Image.open(io.BytesIO(_compressed(picture(noise=False)))) as image:
        assert image.size == (80, 60)
        assert image.convert("RGB").getcolors() == [(80 * 60, (255, 255, 255))]
