"""Servers that misbehave on HTTP/1.1: what the pool makes of them, what they were sent, and that all is back after."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.http._clients import Edge, assert_at_rest
from tests.http._raw_server import Connection, RawServer, close_after, close_on_request, sends, silent, slow_head
from tests.http._servers import Authority, Nginx

pytestmark = pytest.mark.usefixtures("bounded")


@contextlib.asynccontextmanager
async def pooled(edge: Edge, **options: Any) -> AsyncIterator[tuple[Any, Any]]:
    """A client over a PoolTransport, and the pool; afterwards every slot must be back."""
    pool = edge.pool(**options)
    async with edge.lib.AsyncClient(transport=pool, trust_env=False, timeout=5) as client:
        yield client, pool
        assert_at_rest(pool)


# Connections that end early


@pytest.mark.parametrize("by", ["fin", "rst"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_closed_after_each_second_response(edge: Edge, nursery: trio.Nursery, by: str, method: str) -> None:
    server = await RawServer(close_after(2, by=by)).start(nursery)
    async with pooled(edge) as (client, _):
        for number in range(40):
            assert (await client.request(method, server.url, content=str(number).encode())).text == "ok"
    assert server.bodies(method) == [str(number).encode() for number in range(40)]
    assert server.accepted == 20


@pytest.mark.parametrize("by", ["fin", "rst"])
async def test_closed_after_each_second_response_under_load(edge: Edge, nursery: trio.Nursery, by: str) -> None:
    """No GET fails, and no POST comes twice, whether it failed or not."""
    server = await RawServer(close_after(2, by=by)).start(nursery)
    good: list[bytes] = []
    async with pooled(edge, limits=edge.lib.Limits(max_connections=10)) as (client, _):

        async def task(name: int) -> None:
            for number in range(10):
                assert (await client.get(server.url)).text == "ok"
                body = f"{name}-{number}".encode()
                with contextlib.suppress(edge.lib.TransportError):
                    await client.post(server.url, content=body)
                    good.append(body)

        async with trio.open_nursery() as tasks:
            for name in range(20):
                tasks.start_soon(task, name)
    posted = server.bodies("POST")
    assert len(posted) == len(set(posted))
    assert set(good) <= set(posted)
    assert len(good) > 150


@pytest.mark.parametrize("by", ["fin", "rst"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_an_idempotent_request_on_a_connection_gone_stale_is_sent_again(
    edge: Edge, nursery: trio.Nursery, by: str, method: str
) -> None:
    server = await RawServer(close_on_request(2, by=by)).start(nursery)
    async with pooled(edge) as (client, _):
        await client.get(server.url)
        response = await client.request(method, server.url, content=b"body")
        assert response.status_code == 200
        assert response.extensions["trioresil"].reused is False
    assert [received.method for received in server.received] == ["GET", method, method]
    assert [received.body for received in server.received] == [b"", b"body", b"body"]


@pytest.mark.parametrize("by", ["fin", "rst"])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_post_that_the_server_may_have_is_never_sent_again(
    edge: Edge, nursery: trio.Nursery, by: str, method: str
) -> None:
    server = await RawServer(close_on_request(2, by=by)).start(nursery)
    async with pooled(edge) as (client, _):
        for number in range(10):
            await client.get(server.url)
            with pytest.raises((edge.lib.RemoteProtocolError, edge.lib.ReadError)):
                await client.request(method, server.url, content=str(number).encode())
    assert server.bodies(method) == [str(number).encode() for number in range(10)]


async def test_a_body_that_was_a_stream_is_never_sent_again(edge: Edge, nursery: trio.Nursery) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"once"

    server = await RawServer(close_on_request(2)).start(nursery)
    async with pooled(edge) as (client, _):
        await client.get(server.url)
        with pytest.raises((edge.lib.RemoteProtocolError, edge.lib.ReadError)):
            await client.put(server.url, content=body())
    assert server.bodies("PUT") == [b"once"]


async def test_a_fresh_connection_that_breaks_is_not_tried_again(edge: Edge, nursery: trio.Nursery) -> None:
    server = await RawServer(close_on_request(1)).start(nursery)
    async with pooled(edge) as (client, _):
        with pytest.raises(edge.lib.RemoteProtocolError):
            await client.get(server.url)
    assert len(server.received) == 1


async def test_a_request_is_sent_again_once_and_no_more(edge: Edge, nursery: trio.Nursery) -> None:
    async def script(connection: Connection) -> None:
        if connection.number <= 3:
            await connection.request()
            await connection.respond()
        await connection.request()

    server = await RawServer(script).start(nursery)
    async with pooled(edge) as (client, _):
        async with trio.open_nursery() as tasks:
            for _ in range(3):
                tasks.start_soon(client.get, server.url)
        with pytest.raises(edge.lib.RemoteProtocolError):
            await client.get(server.url)
    assert len(server.received) == 5


async def test_an_answer_begun_on_a_stale_connection_is_not_asked_for_again(edge: Edge, nursery: trio.Nursery) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.respond()
        await connection.request()
        await connection.send(b"HTTP/1.1 2")

    server = await RawServer(script).start(nursery)
    async with pooled(edge) as (client, _):
        await client.get(server.url)
        with pytest.raises(edge.lib.RemoteProtocolError):
            await client.get(server.url)
    assert len(server.received) == 2


# Responses that nobody closes


async def forget(responses: list[Any]) -> list[str]:
    """Drops responses and collects them; the warnings that this gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        responses.clear()
        gc.collect()
        await trio.testing.wait_all_tasks_blocked()
    return [str(warning.message) for warning in caught if issubclass(warning.category, ResourceWarning)]


async def test_thirty_responses_never_closed_lose_no_slot(edge: Edge, nursery: trio.Nursery) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
        await connection.gone()

    server = await RawServer(script).start(nursery)
    async with pooled(edge, limits=edge.lib.Limits(max_connections=10)) as (client, pool):
        responses: list[Any] = []
        for number in range(1, 31):
            responses.append(await client.send(client.build_request("GET", server.url), stream=True))
            if number % 9 == 0:
                assert pool.statistics().in_use == len(responses)
                assert sum(f"{server.port}" in message for message in await forget(responses)) == 9
                assert_at_rest(pool)
        assert await forget(responses)
        assert_at_rest(pool)
        await server.wait(lambda server: server.open == 0)
    assert server.accepted == 30


async def test_a_waiter_gets_the_slot_of_a_response_never_closed(edge: Edge, nursery: trio.Nursery) -> None:
    server = await RawServer().start(nursery)
    async with pooled(edge, limits=edge.lib.Limits(max_connections=1)) as (client, pool):
        responses = [await client.send(client.build_request("GET", server.url), stream=True)]
        async with trio.open_nursery() as tasks:
            tasks.start_soon(client.get, server.url)
            await trio.testing.wait_all_tasks_blocked()
            assert pool.statistics().waiting == 1
            assert await forget(responses)


# Lifetime


@pytest.mark.slow
async def test_a_connection_is_replaced_when_its_life_is_over(edge: Edge, nursery: trio.Nursery) -> None:
    server = await RawServer().start(nursery)
    async with pooled(edge, max_lifetime=0.1) as (client, _):
        with trio.move_on_after(0.55):
            while True:
                assert (await client.get(server.url)).status_code == 200
    # A life lasts 0.09 to 0.11 s; a slow machine makes it longer.
    assert 3 <= server.accepted <= 7


async def test_a_body_outlives_the_lifetime_of_its_connection(edge: Edge, nursery: trio.Nursery) -> None:
    late = trio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        await late.wait()
        await connection.send(b"half")
        await connection.gone()

    server = await RawServer(script).start(nursery)
    async with pooled(edge, max_lifetime=0.01) as (client, _):
        async with client.stream("GET", server.url) as response:
            await trio.sleep(0.03)
            late.set()
            assert await response.aread() == b"halfhalf"
        await server.wait(lambda server: server.open == 0)


# Slow, garbled, gone


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_head_timeout_ends_a_head_that_drips(
    edge: Edge, authority: Authority, nursery: trio.Nursery, tls: bool
) -> None:
    server = await RawServer(slow_head(0.02), tls=authority.server_context() if tls else None).start(nursery)
    async with pooled(edge, head_timeout=0.3, verify=authority.client_context) as (client, _):
        client.timeout = edge.lib.Timeout(None, read=0.2)
        start = trio.current_time()
        with pytest.raises(edge.lib.ReadTimeout) as caught:
            await client.get(server.url)
        assert 0.3 <= trio.current_time() - start < 1.0
        assert caught.value.request.url == server.url
        await server.wait(lambda server: server.open == 0)


async def test_head_timeout_never_cuts_a_body(edge: Edge, nursery: trio.Nursery) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        for _ in range(4):
            await trio.sleep(0.03)
            await connection.send(b"x")

    server = await RawServer(script).start(nursery)
    async with pooled(edge, head_timeout=0.08) as (client, _):
        assert (await client.get(server.url)).text == "xxxx"


async def test_head_timeout_doesnt_count_the_wait_for_a_slot(edge: Edge, nursery: trio.Nursery) -> None:
    server = await RawServer().start(nursery)
    async with pooled(edge, head_timeout=0.2, limits=edge.lib.Limits(max_connections=1)) as (client, _):
        response = await client.send(client.build_request("GET", server.url), stream=True)
        async with trio.open_nursery() as tasks:
            tasks.start_soon(client.get, server.url)
            await trio.sleep(0.25)
            await response.aclose()


@pytest.mark.slow
@pytest.mark.parametrize("inner", ["own", "pool"])
async def test_attempt_timeout_ends_a_head_that_drips(edge: Edge, nursery: trio.Nursery, inner: str) -> None:
    server = await RawServer(slow_head(0.02)).start(nursery)
    transport = edge.face.ResilientTransport(edge.transport(inner), retry=None, attempt_timeout=0.3)
    async with edge.lib.AsyncClient(transport=transport, trust_env=False) as client:
        start = trio.current_time()
        with pytest.raises(edge.face.TimedOutError) as caught:
            await client.get(server.url)
        assert 0.3 <= trio.current_time() - start < 1.0
        assert isinstance(caught.value, edge.lib.TimeoutException)
        assert caught.value.started is not False
        await server.wait(lambda server: server.open == 0)


HEADS = {
    "garbage": b"\x16\x03\x01\x02garbage\r\n\r\n",
    "truncated": b"HTTP/1.1 200 OK\r\nContent-Le",
    "oversized": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000,
    "empty": b"",
    "nul": b"\x00" * 1000,
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "http2 preface": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("then", ["fin", "wait"])
async def test_a_head_that_is_none_costs_its_connection_and_no_more(
    edge: Edge, nursery: trio.Nursery, head: str, then: str
) -> None:
    server = await RawServer(sends(HEADS[head], then=then)).start(nursery)
    async with pooled(edge, limits=edge.lib.Limits(max_connections=1)) as (client, pool):
        client.timeout = edge.lib.Timeout(5, read=0.05)
        for _ in range(3):
            with pytest.raises(edge.lib.TransportError):
                await client.post(server.url, content=b"body")
            assert_at_rest(pool)
        await server.wait(lambda server: server.open == 0)
        server.script = close_after(1)
        assert (await client.get(server.url)).text == "ok"
    assert server.count("POST") == 3


@pytest.mark.parametrize("by", ["fin", "rst", "wait"])
@pytest.mark.parametrize("framing", [b"Content-Length: 10", b"Transfer-Encoding: chunked"])
async def test_a_body_cut_short_is_an_error_and_gives_its_slot_back(
    edge: Edge, nursery: trio.Nursery, by: str, framing: bytes
) -> None:
    data = b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + (b"5\r\nhe" if b"chunked" in framing else b"half")
    server = await RawServer(sends(data, then=by)).start(nursery)
    async with pooled(edge, limits=edge.lib.Limits(max_connections=1)) as (client, pool):
        client.timeout = edge.lib.Timeout(5, read=0.05)
        for _ in range(3):
            with pytest.raises(edge.lib.TransportError):
                await client.get(server.url)
            assert_at_rest(pool)
    assert len(server.received) == 3


async def test_a_server_that_comes_back_is_found_again(edge: Edge, nursery: trio.Nursery) -> None:
    server = await RawServer().start(nursery)
    async with pooled(edge) as (client, _):
        for number in range(5):
            assert (await client.get(server.url)).status_code == 200
            await server.restart()
            response = await client.post(server.url, content=str(number).encode())
            assert response.status_code == 200
            await server.stop()
            with pytest.raises(edge.lib.ConnectError):
                await client.get(server.url)
            await server.start(nursery)
    assert server.bodies() == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.slow
async def test_restarts_under_load_fail_no_get_of_a_resilient_client(edge: Edge, nursery: trio.Nursery) -> None:
    """Restarts follow each other when every task has been served in between: three attempts outlast one restart, not three."""
    server = await RawServer().start(nursery)
    async with edge.face.open_client(breaker=None, trust_env=False) as client:

        async def task(name: int) -> None:
            while True:
                assert (await client.get(f"{server.url}/{name}")).status_code == 200

        async with trio.open_nursery() as tasks:
            for name in range(10):
                tasks.start_soon(task, name)
            for _ in range(4):
                server.received.clear()
                await server.wait(lambda server: len({received.target for received in server.received}) == 10)
                await server.restart()
            server.received.clear()
            await server.wait(lambda server: len({received.target for received in server.received}) == 10)
            tasks.cancel_scope.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_a_rolling_restart_of_nginx_fails_no_get(
    edge: Edge, authority: Authority, tmp_path: Path, tls: bool
) -> None:
    """nginx closes idle connections as it reloads, and also one by one after so many requests."""
    nginx = Nginx(tmp_path, authority, keepalive_requests=7)
    async with (
        nginx.running(),
        pooled(edge, limits=edge.lib.Limits(max_connections=10), verify=authority.client_context) as (client, pool),
    ):
        served = 0

        async def task() -> None:
            nonlocal served
            while True:
                assert (await client.get(nginx.tls_url if tls else nginx.url)).text == "hello"
                served += 1

        async with trio.open_nursery() as tasks:
            for _ in range(12):
                tasks.start_soon(task)
            for reloads in range(1, 4):
                while served < 20 * reloads:  # noqa: ASYNC110 -- the tasks that count need no event to do it
                    await trio.sleep(0.01)
                await nginx.reload()
            while served < 80:  # noqa: ASYNC110
                await trio.sleep(0.01)
            tasks.cancel_scope.cancel()
        assert_at_rest(pool)


async def test_a_silent_server_beside_cancelled_requests(edge: Edge, nursery: trio.Nursery) -> None:
    server = await RawServer(silent).start(nursery)
    async with pooled(edge, limits=edge.lib.Limits(max_connections=5)) as (client, pool):
        for _ in range(3):
            with trio.move_on_after(0.02):
                async with trio.open_nursery() as tasks:
                    for _ in range(20):
                        tasks.start_soon(client.get, server.url)
            assert_at_rest(pool)
        await server.wait(lambda server: server.open == 0)
    assert server.most_open <= 5
