"""HTTP/2 servers that go away, reset streams and change their minds; and clients that cancel some of many streams."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.http._clients import Edge, assert_at_rest
from tests.http._h2_server import H2Server, Stream, answer
from tests.http._servers import Authority, Nginx

pytestmark = pytest.mark.usefixtures("bounded")


@pytest.fixture
async def serve(authority: Authority, nursery: trio.Nursery) -> Callable[..., Any]:
    async def serve(script: Any = None, **options: Any) -> H2Server:
        return await H2Server(script, tls=authority.server_context("h2"), **options).start(nursery)

    return serve


@contextlib.asynccontextmanager
async def pooled(edge: Edge, authority: Authority, **options: Any) -> AsyncIterator[tuple[Any, Any]]:
    pool = edge.pool(http2=True, verify=authority.client_context, **options)
    async with edge.lib.AsyncClient(transport=pool, trust_env=False, timeout=5) as client:
        yield client, pool
        assert_at_rest(pool)


class Gate:
    """A script that answers when it is told to, and knows how many wait for that."""

    def __init__(self) -> None:
        self.open = trio.Event()

    async def __call__(self, stream: Stream) -> None:
        await stream.complete.wait()
        await self.open.wait()
        await answer(stream)


# GOAWAY


async def test_after_goaway_a_new_connection_is_made(edge: Edge, authority: Authority, serve: Any) -> None:
    server = await serve()
    async with pooled(edge, authority) as (client, _):
        for number in range(1, 5):
            assert (await client.get(server.url)).status_code == 200
            await server.connections[-1].goaway()
            assert (await client.post(server.url, content=b"once")).status_code == 200
            assert server.accepted == number + 1
    assert len(server.received) == 8


async def test_streams_that_goaway_spares_are_answered(edge: Edge, authority: Authority, serve: Any) -> None:
    gate = Gate()
    server = await serve()
    texts: list[str] = []
    async with pooled(edge, authority) as (client, _):
        await client.get(server.url)
        server.script = gate

        async def get(path: str) -> None:
            texts.append((await client.get(server.url + path)).text)

        async with trio.open_nursery() as tasks:
            for number in range(5):
                tasks.start_soon(get, f"/{number}")
            await server.wait(lambda server: len(server.received) == 6)
            await server.connections[0].goaway()
            tasks.start_soon(get, "/after")
            await server.wait(lambda server: server.accepted == 2)
            gate.open.set()
    assert sorted(texts) == sorted(["GET /0 ", "GET /1 ", "GET /2 ", "GET /3 ", "GET /4 ", "GET /after "])
    assert server.connections[1].streams.keys() == {1}


async def test_a_connection_that_went_away_is_closed_when_its_last_stream_ends(
    edge: Edge, authority: Authority, serve: Any
) -> None:
    server = await serve()
    async with pooled(edge, authority) as (client, _):
        async with client.stream("GET", server.url):
            await server.connections[0].goaway()
        await client.get(server.url)
        await server.wait(lambda server: server.open == 1)


async def test_a_get_that_goaway_refused_is_sent_again(edge: Edge, authority: Authority, serve: Any) -> None:
    async def script(stream: Stream) -> None:
        if stream.connection.number == 1 and stream.number > 1:
            await stream.connection.goaway(last_stream=1)
            stream.connection.stream.transport_stream.socket.shutdown(1)
            return
        await answer(stream)

    server = await serve(script)
    async with pooled(edge, authority) as (client, _):
        await client.get(server.url)
        assert (await client.get(server.url + "/again")).text == "GET /again "
    assert server.accepted == 2


async def test_a_post_is_not_processed_twice_around_goaway(edge: Edge, authority: Authority, serve: Any) -> None:
    """Processed by the server, which then goes away without an answer: the GOAWAY says that it was."""

    async def script(stream: Stream) -> None:
        await stream.complete.wait()
        if stream.method == "POST":
            await stream.connection.goaway(last_stream=stream.number)
            stream.connection.stream.transport_stream.socket.shutdown(1)
            return
        await answer(stream)

    server = await serve(script)
    async with pooled(edge, authority) as (client, _):
        await client.get(server.url)
        with pytest.raises(edge.lib.TransportError):
            await client.post(server.url, content=b"once")
        assert (await client.get(server.url)).status_code == 200
    assert [stream.method for stream in server.received] == ["GET", "POST", "GET"]


@pytest.mark.slow
async def test_nginx_that_goes_away_after_some_requests_fails_none(
    edge: Edge, authority: Authority, tmp_path: Path
) -> None:
    """nginx sends GOAWAY with the last request that it takes on a connection, before it answers it."""
    nginx = Nginx(tmp_path, authority, keepalive_requests=5)
    limits = edge.lib.Limits(max_connections=4)
    async with nginx.running(), pooled(edge, authority, limits=limits) as (client, pool):

        async def post() -> None:
            for _ in range(20):
                response = await client.post(nginx.tls_url, content=b"body")
                assert (response.text, response.http_version) == ("hello", "HTTP/2")

        await post()
        async with trio.open_nursery() as tasks:
            for _ in range(6):
                tasks.start_soon(post)
        assert_at_rest(pool)


# RST_STREAM and cancelled streams


async def test_a_reset_stream_spares_the_others(edge: Edge, authority: Authority, serve: Any) -> None:
    async def script(stream: Stream) -> None:
        await stream.complete.wait()
        if stream.path == "/bad":
            await stream.reset()
        else:
            await gate.open.wait()
            await answer(stream)

    gate = Gate()
    server = await serve()
    async with pooled(edge, authority) as (client, pool):
        await client.get(server.url)
        server.script = script

        async def good() -> None:
            assert (await client.get(server.url + "/good")).text == "GET /good "

        async with trio.open_nursery() as tasks:
            for _ in range(5):
                tasks.start_soon(good)
            for _ in range(5):
                with pytest.raises(edge.lib.RemoteProtocolError):
                    await client.post(server.url + "/bad")
            assert pool.statistics().in_use >= 1
            gate.open.set()
    assert sum(stream.path == "/bad" for stream in server.received) == 5


async def test_an_answer_waits_for_no_other_stream(edge: Edge, authority: Authority, serve: Any) -> None:
    """Five streams are silent; what comes for a sixth is handed over when it comes."""
    server = await serve()
    async with pooled(edge, authority) as (client, _):
        await client.get(server.url)
        server.script = gate = Gate()
        async with trio.open_nursery() as tasks:
            for _ in range(5):
                tasks.start_soon(client.get, server.url)
            await server.wait(lambda server: len(server.received) == 6)
            server.script = answer
            for _ in range(10):
                with trio.fail_after(2):
                    assert (await client.get(server.url + "/quick")).text == "GET /quick "
            gate.open.set()


async def test_a_stream_reset_in_its_body_is_an_error_of_that_response(
    edge: Edge, authority: Authority, serve: Any
) -> None:
    async def script(stream: Stream) -> None:
        await stream.head()
        await stream.data(b"half")
        await has_head.wait()
        await stream.reset()

    has_head = trio.Event()
    server = await serve(script)
    async with pooled(edge, authority) as (client, _):
        async with client.stream("GET", server.url) as response:
            has_head.set()
            with pytest.raises(edge.lib.RemoteProtocolError):
                await response.aread()
        server.script = answer
        assert (await client.get(server.url)).status_code == 200


@pytest.mark.parametrize("phase", ["head", "body"])
async def test_cancelled_streams_spare_live_ones(edge: Edge, authority: Authority, serve: Any, phase: str) -> None:
    async def script(stream: Stream) -> None:
        await stream.complete.wait()
        if phase == "body":
            await stream.head()
            await stream.data(b"some ")
        if stream.path == "/live":
            await gate.open.wait()
            if phase == "head":
                await stream.head()
            await stream.data(b"all", end=True)

    gate = Gate()
    server = await serve()
    lived = 0
    async with pooled(edge, authority) as (client, pool):
        await client.get(server.url)
        server.script = script

        async def live() -> None:
            nonlocal lived
            text = (await client.get(server.url + "/live")).text
            assert text.endswith("all")
            lived += 1

        async with trio.open_nursery() as tasks:
            for _ in range(3):
                async with trio.open_nursery() as doomed:
                    known = len(server.received)
                    for _ in range(5):
                        doomed.start_soon(client.get, server.url + "/doomed")
                        tasks.start_soon(live)
                    await server.wait(lambda server, known=known: len(server.received) == known + 10)  # type: ignore[misc]
                    doomed.cancel_scope.cancel()
            gate.open.set()
        assert_at_rest(pool)
        server.script = answer
        assert (await client.get(server.url)).status_code == 200
        await server.wait(lambda server: server.open == 1)
    assert lived == 15


async def test_a_stream_never_read_stalls_no_other(edge: Edge, authority: Authority, serve: Any) -> None:
    """A body left unread and then closed gives its share of the connection's window back."""

    async def script(stream: Stream) -> None:
        await stream.complete.wait()
        if stream.path == "/left":
            await stream.head()
            with contextlib.suppress(Exception):
                await stream.data(b"x" * 16_000)
        else:
            await answer(stream)

    server = await serve(script)
    async with pooled(edge, authority) as (client, _):
        for _ in range(20):
            async with client.stream("GET", server.url + "/left"):
                pass
            assert (await client.get(server.url)).status_code == 200
        await server.wait(lambda server: server.open == 1)


# The limit of streams


async def test_no_more_streams_than_the_server_allows(edge: Edge, authority: Authority, serve: Any) -> None:
    server = await serve(max_streams=5)
    async with pooled(edge, authority, limits=edge.lib.Limits(max_connections=2)) as (client, _):
        async with trio.open_nursery() as tasks:
            for _ in range(60):
                tasks.start_soon(client.get, server.url)
    assert len(server.received) == 60
    assert server.most_streams <= 5
    assert server.accepted <= 2


async def test_a_lowered_limit_is_obeyed(edge: Edge, authority: Authority, serve: Any) -> None:
    server = await serve(max_streams=20)
    async with pooled(edge, authority, limits=edge.lib.Limits(max_connections=1)) as (client, _):
        async with trio.open_nursery() as tasks:
            for _ in range(20):
                tasks.start_soon(client.get, server.url)
        await server.connections[0].limit_streams(2)
        await client.get(server.url)
        server.most_streams = 0
        async with trio.open_nursery() as tasks:
            for _ in range(30):
                tasks.start_soon(client.get, server.url)
    assert server.most_streams <= 2
    assert len(server.received) == 51


async def test_a_limit_lowered_under_load_loses_nobody(edge: Edge, authority: Authority, serve: Any) -> None:
    gate = Gate()
    server = await serve(max_streams=10)
    async with pooled(edge, authority, limits=edge.lib.Limits(max_connections=1)) as (client, _):
        await client.get(server.url)
        server.script = gate
        async with trio.open_nursery() as tasks:
            for _ in range(40):
                tasks.start_soon(client.get, server.url)
            await server.wait(lambda server: len(server.received) == 11)
            await server.connections[0].limit_streams(1)
            gate.open.set()
    assert len(server.received) == 41


async def test_a_raised_limit_lets_waiters_in(edge: Edge, authority: Authority, serve: Any) -> None:
    gate = Gate()
    server = await serve(max_streams=1)
    async with pooled(edge, authority, limits=edge.lib.Limits(max_connections=1)) as (client, _):
        await client.get(server.url)
        server.script = gate
        async with trio.open_nursery() as tasks:
            for _ in range(6):
                tasks.start_soon(client.get, server.url)
            await server.wait(lambda server: len(server.received) == 2)
            await server.connections[0].limit_streams(6)
            await server.wait(lambda server: len(server.received) == 7)
            gate.open.set()


# The connection as a whole


async def test_a_connection_that_dies_fails_its_streams_and_no_more(
    edge: Edge, authority: Authority, serve: Any
) -> None:
    server = await serve()
    failed = 0
    async with pooled(edge, authority) as (client, _):
        await client.get(server.url)
        server.script = Gate()

        async def post() -> None:
            nonlocal failed
            with pytest.raises(edge.lib.TransportError):
                await client.post(server.url)
            failed += 1

        async with trio.open_nursery() as tasks:
            for _ in range(5):
                tasks.start_soon(post)
            await server.wait(lambda server: len(server.received) == 6)
            server.connections[0].stream.transport_stream.socket.close()
        server.script = answer
        assert (await client.get(server.url)).status_code == 200
    assert failed == 5
    assert len(server.received) == 7


async def test_garbage_in_the_middle_fails_the_connection(edge: Edge, authority: Authority, serve: Any) -> None:
    async def script(stream: Stream) -> None:
        async with stream.connection._sending:
            await stream.connection.stream.send_all(b"\xff" * 100)

    server = await serve(script)
    async with pooled(edge, authority) as (client, pool):
        for _ in range(3):
            with pytest.raises(edge.lib.TransportError):
                await client.post(server.url)
            assert_at_rest(pool)
        server.script = answer
        assert (await client.get(server.url)).status_code == 200


async def test_streams_live_on_while_their_connection_is_retired(edge: Edge, authority: Authority, serve: Any) -> None:
    gate = Gate()
    server = await serve(gate)
    async with pooled(edge, authority, max_lifetime=0.02) as (client, _):
        async with trio.open_nursery() as tasks:
            tasks.start_soon(client.get, server.url)
            await server.wait(lambda server: len(server.received) == 1)
            await trio.sleep(0.05)
            tasks.start_soon(client.get, server.url)
            await server.wait(lambda server: len(server.received) == 2)
            gate.open.set()
    assert server.accepted == 2
