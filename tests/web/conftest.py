"""What the tests of the web's edges share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.web._browser import chromium, close_browser


@pytest.fixture
def needs_chromium() -> None:
    """Skip the test, in its own words and before anything is open, where there is no browser."""
    chromium()


@pytest.fixture(scope="session", autouse=True)
def _browser_is_closed() -> Iterator[None]:
    yield
    close_browser()
