"""Connections that died unnoticed, as when a network moved away under them: each request pays for one of them at most."""

from __future__ import annotations

import math

import pytest
import trio

from tests.http._clients import Edge, assert_at_rest
from tests.http._h2_server import H2Server, Stream
from tests.http._h2_server import answer as answer_stream
from tests.http._raw_server import Connection, RawServer
from tests.http._servers import Authority

pytestmark = [pytest.mark.usefixtures("bounded"), pytest.mark.slow]

DEAD = 5


async def test_get_finds_its_way_past_all_idle_connections_that_are_dead(edge: Edge, nursery: trio.Nursery) -> None:
    together = trio.Event()
    moved = False

    async def script(connection: Connection) -> None:
        while await connection.request() is not None:
            if len(server.received) == DEAD:
                together.set()
            await together.wait()
            if moved and connection.number <= DEAD:
                return await connection.gone()
            await connection.respond()

    server = await RawServer(script).start(nursery)
    opening = edge.face.open_client(trust_env=False, attempt_timeout=0.3)
    async with opening as client:
        async with trio.open_nursery() as tasks:
            for _ in range(DEAD):
                tasks.start_soon(client.get, server.url)
        moved = True
        response = await client.get(server.url)
        assert (response.status_code, response.extensions["trioresil"].attempts) == (200, 2)
        assert not response.extensions["trioresil"].reused
        response = await client.get(server.url)  # on the newest, which is alive
        assert response.extensions["trioresil"].attempts == 1
        assert server.accepted == DEAD + 1


async def test_http2_request_leaves_a_connection_that_is_dead(
    edge: Edge, authority: Authority, nursery: trio.Nursery
) -> None:
    async def script(stream: Stream) -> None:
        if stream.path == "/dies" and stream.connection.number == 1:
            await trio.sleep(math.inf)
        await answer_stream(stream)

    server = await H2Server(script, tls=authority.server_context("h2")).start(nursery)
    pool = edge.pool(verify=authority.client_context, http2=True)
    transport = edge.face.ResilientTransport(pool, attempt_timeout=0.3)
    async with edge.lib.AsyncClient(transport=transport, trust_env=False) as client:
        assert (await client.get(server.url)).status_code == 200
        response = await client.get(server.url + "/dies")
        assert (response.status_code, response.extensions["trioresil"].attempts) == (200, 2)
        assert server.accepted == 2
        assert_at_rest(pool)


@pytest.mark.slow
async def test_http2_request_stays_on_a_connection_that_others_hear_of(
    edge: Edge, authority: Authority, nursery: trio.Nursery
) -> None:
    asked = 0

    async def script(stream: Stream) -> None:
        nonlocal asked
        asked += stream.path == "/once"
        if stream.path == "/once" and asked == 1:
            await trio.sleep(math.inf)
        await answer_stream(stream)

    server = await H2Server(script, tls=authority.server_context("h2")).start(nursery)
    pool = edge.pool(verify=authority.client_context, http2=True)
    transport = edge.face.ResilientTransport(pool, attempt_timeout=1.5)
    async with edge.lib.AsyncClient(transport=transport, trust_env=False) as client:

        async def chatter() -> None:
            while True:
                await client.get(server.url)
                await trio.sleep(0.02)

        async with trio.open_nursery() as tasks:
            tasks.start_soon(chatter)
            response = await client.get(server.url + "/once")
            assert response.extensions["trioresil"].attempts == 2
            tasks.cancel_scope.cancel()
        assert server.accepted == 1


async def test_request_under_which_the_pool_is_closed_says_so(edge: Edge, nursery: trio.Nursery) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.gone()

    server = await RawServer(script).start(nursery)
    opening = edge.face.open_client(trust_env=False)
    errors = []

    async def get(client: object) -> None:
        with pytest.raises(edge.face.PoolClosedError) as info:
            await client.get(server.url)  # type: ignore[attr-defined]
        errors.append(info.value)

    async with trio.open_nursery() as tasks:
        async with opening as client:
            tasks.start_soon(get, client)
            await server.wait(lambda server: len(server.received) == 1)
    assert errors[0].started
    assert len(server.received) == 1


async def test_time_out_over_the_pool_knows_that_the_request_was_sent(edge: Edge, nursery: trio.Nursery) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.gone()

    server = await RawServer(script).start(nursery)
    async with edge.face.open_client(trust_env=False, attempt_timeout=0.2, retry=None) as client:
        with pytest.raises(edge.face.TimedOutError) as info:
            await client.get(server.url)
    assert info.value.started is True


async def test_limits_of_another_kind_are_refused_by_name(edge: Edge) -> None:
    for make in (edge.face.PoolTransport, edge.face.open_client):
        with pytest.raises(TypeError, match=r"limits must be an httpx2?\.Limits, not 100"):
            make(limits=100)
