"""Pages as a person sees them: headless Chromium, driven by Playwright."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.conftest import ROOT
from vgglab.dashboard.screenshots import chromium
from vgglab.errors import InputError


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with ExitStack() as stack:
        try:
            started = stack.enter_context(chromium())
        except InputError as error:
            pytest.skip(str(error))
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab; the test fails where its page threw an error or reached beyond this machine."""
    problems: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.on("pageerror", lambda error: problems.append(str(error)))

    def remember(url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:", "http://127.0.0.1", "http://localhost")):
            problems.append(f"asked for {url}")

    tab.on("request", lambda request: remember(request.url))
    yield tab
    context.close()
    assert not problems


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two short runs of the digits, `seed-0` and `seed-1`, all default callbacks."""
    folder = tmp_path_factory.mktemp("runs")
    settings = ("trainer.max_epochs=3", "model.width=0.125", "trainer.log_every_n_steps=5")
    for seed in (0, 1):
        subprocess.run(
            [
                *(sys.executable, str(ROOT / "scripts/train.py"), *settings),
                *(f"seed={seed}", f"hydra.run.dir={folder}/seed-{seed}"),
            ],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            check=True,
            timeout=600,
        )
    return folder
