"""What the tests of HTTP share: a certificate authority, made once, and the client library to run under."""

from __future__ import annotations

import functools

import pytest
import trio

from tests.http._clients import LIBRARIES, Edge
from tests.http._servers import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority, and a certificate of its for localhost."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(params=LIBRARIES)
def edge(request: pytest.FixtureRequest) -> Edge:
    """Each client library in turn, with trioresil's face for it."""
    return Edge(request.param)


@pytest.fixture
def bounded(request: pytest.FixtureRequest) -> None:
    """Ends a test that takes more than half a minute, which is how a lost slot shows; `usefixtures` asks for it.

    It wraps the test itself: a scope that an async fixture opens doesn't hold for the test, which is a task of its own.
    """
    test = request.node.obj

    @functools.wraps(test)
    async def in_time(**fixtures: object) -> None:
        with trio.fail_after(30):
            await test(**fixtures)

    request.node.obj = in_time
