"""Headless Chromium for the live page's tests: Playwright's synchronous API in a thread of its own, Debian's chromium."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import trio

from tests._programs import program

T = TypeVar("T")


def chromium() -> str:
    """The browser's path; without it, or without Playwright, the test is skipped, or fails if TRIORESIL_REQUIRE names it."""
    if importlib.util.find_spec("playwright") is None:
        message = "playwright is not installed (pip install playwright)"
        if "chromium" in os.environ.get("TRIORESIL_REQUIRE", "").split():
            pytest.fail(message)
        pytest.skip(message)
    return program("chromium", package="chromium")


@contextmanager
def browser_page(path: str, **options: Any) -> Iterator[Any]:
    """A page, with a list of what went wrong in it as `.mishaps`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            page = browser.new_context(**options).new_page()
            page.set_default_timeout(20_000)
            page.mishaps = []
            page.on("pageerror", lambda error: page.mishaps.append(str(error)))
            page.on("console", lambda said: said.type == "error" and page.mishaps.append(said.text))
            yield page
        finally:
            browser.close()


async def in_browser(visit: Callable[[Any], T], **options: Any) -> T:
    """Run `visit(page)` in a thread, while the program under test goes on."""
    path = chromium()

    def run() -> T:
        with browser_page(path, **options) as page:
            return visit(page)

    return await trio.to_thread.run_sync(run)
