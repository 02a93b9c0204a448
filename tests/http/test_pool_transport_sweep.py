"""PoolTransport: cancelled at any moment, no slot is lost, no connection is left open, and nobody waits beside a free one."""

from __future__ import annotations

import ssl
from typing import Any

import httpx
import pytest
import trio

from tests.http._memory_server import OK, Peer, Server
from trioresil.httpx import PoolTransport
from trioresil.testing import Sweep, cancellation_sweep

CONTEXT = ssl.create_default_context()  # made once: it takes longer than a run


async def slowly(peer: Peer) -> None:
    while await peer.request():
        await trio.sleep(1)
        await peer.send(OK[:30])
        await trio.sleep(1)
        await peer.send(OK[30:])


async def stale(peer: Peer) -> None:
    """Leaves in the middle of each second request."""
    await peer.request()
    await peer.send(OK)
    await peer.request()
    peer.hang_up_unseen()


class Pool:
    """A transport, and what must be true of it whenever nothing moves."""

    def __init__(self, sweep: Sweep, server: Server, connections: int, per_origin: int) -> None:
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self.transport = server.serve(PoolTransport(CONTEXT, limits=limits, max_connections_per_origin=per_origin))
        self.server = server
        sweep.when_quiet(self.check)

    def check(self) -> None:
        ledger = self.transport._ledger
        if ledger is None:
            return
        taken = ledger.limiter.statistics()
        assert not (taken.borrowed_tokens < taken.total_tokens and taken.tasks_waiting)
        assert ledger.open <= ledger.max_connections
        assert self.server.open == len(ledger.connections)
        for origin in ledger.origins.values():
            assert origin.limiter is not None
            own = origin.limiter.statistics()
            assert not (own.borrowed_tokens < own.total_tokens and own.tasks_waiting)

    def check_at_rest(self) -> None:
        ledger = self.transport._ledger
        assert ledger is not None
        assert (ledger.inside, ledger.limiter.borrowed_tokens, ledger.dialling) == (0, 0, 0)
        assert not ledger.pauses
        assert len(ledger.connections) == len(ledger.idle) == self.server.open
        for origin in ledger.origins.values():
            assert origin.limiter is not None
            assert (origin.limiter.borrowed_tokens, origin.in_use, origin.waiting, origin.dialling) == (0, 0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("script", "connections", "per_origin"), [(slowly, 1, 1), (slowly, 2, 1), (stale, 2, 2)])
def test_cancelled_at_any_moment_nothing_is_lost(script: Any, connections: int, per_origin: int) -> None:
    async def scenario(sweep: Sweep) -> None:
        async with trio.open_nursery() as servers:
            server = Server(servers, script)
            server.dial_seconds = 0.5
            pool = Pool(sweep, server, connections, per_origin)
            http = httpx.AsyncClient(transport=pool.transport, timeout=None)
            done: list[str] = []

            async def get(url: str, *, streamed: bool = False) -> None:
                if streamed:
                    async with http.stream("GET", url) as response:
                        await response.aread()
                else:
                    await http.get(url)
                done.append(url)

            async def victim() -> None:
                with sweep.victim():
                    await get("http://one.example/victim", streamed=True)
                    await get("http://two.example/victim")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(get, "http://one.example/a")
                nursery.start_soon(victim)
                nursery.start_soon(get, "http://one.example/b")
                nursery.start_soon(get, "http://two.example/c")
            pool.check_at_rest()
            assert {"http://one.example/a", "http://one.example/b", "http://two.example/c"} <= set(done)
            await http.aclose()
            assert server.open == 0
            servers.cancel_scope.cancel()

    report = cancellation_sweep(scenario, seeds=range(1))
    assert report.moments > 50


@pytest.mark.slow
def test_cancelled_while_it_closes_a_body_nothing_is_lost() -> None:
    async def scenario(sweep: Sweep) -> None:
        async with trio.open_nursery() as servers:
            server = Server(servers, slowly)
            pool = Pool(sweep, server, 1, 1)
            http = httpx.AsyncClient(transport=pool.transport, timeout=None)

            async def victim() -> None:
                with sweep.victim():
                    async with http.stream("GET", "http://one.example/") as response:
                        async for _ in response.aiter_raw():
                            pass
                    async with http.stream("GET", "http://one.example/"):
                        pass

            async with trio.open_nursery() as nursery:
                nursery.start_soon(victim)
                nursery.start_soon(http.get, "http://one.example/")
            pool.check_at_rest()
            await http.aclose()
            servers.cancel_scope.cancel()

    assert cancellation_sweep(scenario, seeds=range(2)).moments > 20
