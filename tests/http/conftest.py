"""What the tests of HTTP share: a certificate authority, made once, and the client library to run under."""

from __future__ import annotations

import pytest

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
