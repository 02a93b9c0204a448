"""What the tests of the web's edges share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.web._browser import close_browser


@pytest.fixture(scope="session", autouse=True)
def _browser_is_closed() -> Iterator[None]:
    yield
    close_browser()
