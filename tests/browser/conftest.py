"""Pages as a person sees them: headless Chromium, driven by Playwright."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: on Debian, apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


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
