"""The servers of these tests: they come up, keep apart, and do what tests want of them."""

from __future__ import annotations

import pytest

from tests.shared._servers import KINDS, Server, Servers, frozen


def test_server_answers_and_is_empty(server: Server) -> None:
    assert server.command("PING") == b"PONG"
    assert server.command("DBSIZE") == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_server_is_killed_and_started_again_on_the_same_port(kind: str, servers: Servers) -> None:
    server = servers.new(kind)
    server.kill()
    with pytest.raises(ConnectionRefusedError):
        server.command("PING")
    server.start()
    assert server.command("PING") == b"PONG"


@pytest.mark.slow
def test_frozen_server_answers_when_it_is_thawed(servers: Servers) -> None:
    server = servers.new("valkey")
    with frozen(server):
        assert server.process is not None
    assert server.command("PING") == b"PONG"
