"""A real browser for tests of pages: one Chromium per module, and a page that fails on errors and requests.

Import both fixtures into the conftest.py of a folder of tests.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

INSTALL = "pip install 'scalelab[test]' for Playwright, and Chromium from the system (apt-get install chromium)"
_LOCAL = ("file:", "data:", "blob:", "about:")


@pytest.fixture(scope="module")
def chromium():
    """Start the system's Chromium; skip where it or Playwright is missing.

    Not once per session: Playwright's event loop runs in this thread until it is stopped, and other tests start theirs.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip(f"no Playwright: {INSTALL}")
    if program is None:
        pytest.skip(f"no Chromium: {INSTALL}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Return a function that opens a file or an address; the test fails on console errors and on foreign requests.

    Options of the function are those of a browser context, such as `viewport` and `color_scheme`; `allowed` is the
    beginning of addresses that the page may ask for, such as that of a local server.
    """
    contexts, wrong = [], []

    def open_(target: str | Path, *, allowed: str = "file:", **options):
        options = {"viewport": {"width": 1280, "height": 900}, "accept_downloads": True} | options
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url.startswith((*_LOCAL, allowed)) else wrong.append(request.url),
        )
        page.goto(target.resolve().as_uri() if isinstance(target, Path) else target)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not wrong, f"errors or requests of the page: {wrong}"
