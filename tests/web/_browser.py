"""Headless Chromium for the live page's tests: Playwright's synchronous API, Debian's chromium.

A browser takes a second to start, so one serves all tests, in a thread of its own; each test has a window without a past.
"""

from __future__ import annotations

import importlib.util
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import pytest
import trio

from tests._programs import program

T = TypeVar("T")

PATIENCE = 20  # seconds


class Browser:
    """The browser, and the thread that it is talked to from."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, "browser")
        self._open = ExitStack()
        self._chromium: Any = None

    @contextmanager
    def page(self, path: str, **options: Any) -> Iterator[Any]:
        """A page, with a list of what went wrong in it as `.mishaps`."""
        if self._chromium is None or not self._chromium.is_connected():
            self._start(path)
        with self._chromium.new_context(**options) as context:
            page = context.new_page()
            page.set_default_timeout(1_000 * PATIENCE)
            page.mishaps = []
            page.on("pageerror", lambda error: page.mishaps.append(str(error)))
            page.on("console", lambda said: said.type == "error" and page.mishaps.append(said.text))
            yield page

    def _start(self, path: str) -> None:
        from playwright.sync_api import sync_playwright

        self._open.close()
        playwright = self._open.enter_context(sync_playwright())
        self._chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        self._open.callback(self._chromium.close)

    def close(self) -> None:
        """End it, if it was started."""
        self.thread.submit(self._open.close).result()
        self.thread.shutdown()


browser: Browser | None = None


def close_browser() -> None:
    """End the browser of all tests."""
    global browser
    if browser is not None:
        browser.close()
        browser = None


def chromium() -> str:
    """The browser's path; without it, or without Playwright, the test is skipped, or fails if TRIORESIL_REQUIRE names it."""
    if importlib.util.find_spec("playwright") is None:
        message = "playwright is not installed (pip install playwright)"
        if "chromium" in os.environ.get("TRIORESIL_REQUIRE", "").split():
            pytest.fail(message)
        pytest.skip(message)
    return program("chromium", package="chromium")


async def in_browser(visit: Callable[[Any], T], *, expected: str = "(?!)", **options: Any) -> T:
    """Run `visit(page)` in the browser's thread, while the program under test goes on.

    Args:
      visit: what is done with the page; `page.run(function, *args)` and `page.run_sync` call into the program.
      expected: a pattern of the errors that the browser may have shown in its console; any other fails the test.
      **options: of the browser's context.
    """
    global browser
    path, token = chromium(), trio.lowlevel.current_trio_token()
    shared = browser = browser or Browser()

    def run() -> T:
        with shared.page(path, **options) as page:
            page.run = lambda function, *args: trio.from_thread.run(function, *args, trio_token=token)
            page.run_sync = lambda function, *args: trio.from_thread.run_sync(function, *args, trio_token=token)
            found = visit(page)
            mishaps = [each for each in page.mishaps if not re.search(expected, each)]
            assert not mishaps, mishaps
            return found

    return await trio.to_thread.run_sync(shared.thread.submit(run).result)


def wait_until(page: Any, script: str, argument: Any = None) -> None:
    """Wait until a script says yes. Playwright's own wait would evaluate it in the page, which its policy forbids."""
    ends_at = time.monotonic() + PATIENCE
    while not page.evaluate(script, argument):
        assert time.monotonic() < ends_at, script
        page.wait_for_timeout(20)
