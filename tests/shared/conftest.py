"""What the tests of shared state have in common: servers. `server` is each kind in turn, empty; `servers` starts others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shared._servers import KINDS, Server, Servers


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """Servers that run as long as the tests do, by kind; started when first needed."""
    factory = Servers(tmp_path_factory.mktemp("running"))
    yield _Running(factory)
    factory.close()


class _Running(dict[str, Server]):
    def __init__(self, factory: Servers) -> None:
        self._factory = factory

    def __missing__(self, kind: str) -> Server:
        self[kind] = self._factory.new(kind)
        return self[kind]


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, running: dict[str, Server]) -> Server:
    """A server of each kind in turn, with nothing stored. Others use it later: don't kill it, see `servers` for that."""
    found = running[request.param]
    found.command("FLUSHALL")
    found.command("SCRIPT", "FLUSH")
    return found


@pytest.fixture
def valkey(running: dict[str, Server]) -> Server:
    """A Valkey with nothing stored, for what needs not be seen with both kinds."""
    found = running["valkey"]
    found.command("FLUSHALL")
    return found


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """Starts servers for one test, which may do with them what it likes: `servers.new("valkey")`."""
    factory = Servers(tmp_path)
    yield factory
    factory.close()
