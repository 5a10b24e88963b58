"""A real browser for tests: Debian's Chromium, driven by playwright; without network but for this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

#: What Chromium is called: Debian's, Ubuntu's, Google's own.
NAMES = ("chromium", "chromium-browser", "google-chrome")

#: Seconds after which a page that does not show what it should is wrong, on a machine with other work.
SECONDS = 150

#: Says that there must be a browser: without one the tests fail then, where they are else skipped (.ci/run).
NEEDED = "THESIS_TESTS_NEED_CHROMIUM"


def missing() -> str:
    """Why there is no browser; empty if there is one."""
    if not any(map(shutil.which, NAMES)):
        return "no chromium on PATH: nothing is looked at in a browser"
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "playwright is not installed: nothing is looked at in a browser"
    return ""


class Window:
    """A page, what its console called an error, and what it asked the network for."""

    def __init__(self, page, home: str) -> None:
        self.page, self.errors, self.asked = page, [], []
        page.set_default_timeout(SECONDS * 1000)
        page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))

        def allow(route):
            address = route.request.url
            if address.startswith(home):
                route.continue_()
            else:
                self.asked.append(address)
                route.abort()

        page.route(lambda address: not address.startswith(("data:", "blob:")), allow)


@contextmanager
def window(home: str) -> Iterator[Window]:
    """A window of a browser, which gets nothing from the network but what is below the address `home`."""
    if why := missing():
        (pytest.fail if os.environ.get(NEEDED) else pytest.skip)(why)
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=SECONDS * 1000)
    with sync_playwright() as driver:
        # Chromium's own sandbox refuses to work for root.
        path = next(filter(None, map(shutil.which, NAMES)))
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield Window(chromium.new_page(viewport={"width": 1500, "height": 1400}), home)
        finally:
            chromium.close()
