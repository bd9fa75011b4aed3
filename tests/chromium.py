"""A real browser, driven by playwright."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
PLACES = ("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "/snap/bin/chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        found = [shutil.which(name) for name in (*BROWSERS, *PLACES, driver.chromium.executable_path)]
        places = [place for place in found if place]
        if not places:
            pytest.skip("there is no Chromium here")
        opened = driver.chromium.launch(executable_path=places[0], args=["--no-sandbox"])
        yield opened
        opened.close()
