"""Replies that came in parts, answers that are none, and errors that kept what they were about."""

from __future__ import annotations

import gc
from functools import partial

import pytest
import trio
import trio.testing

from tests.http._clients import Edge
from tests.http._h2_server import H2Server, Stream
from tests.http._raw_server import Connection, RawServer

pytestmark = pytest.mark.usefixtures("bounded")


async def test_reply_of_a_socks_proxy_may_come_in_parts(edge: Edge, nursery: trio.Nursery) -> None:
    async def proxy(stream: trio.SocketStream) -> None:
        for reply in (
            b"\x05\x00",
            b"\x05\x00\x00\x03\x04host\x00\x50",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ):
            await stream.receive_some()
            for at in range(len(reply)):
                await stream.send_all(reply[at : at + 1])
                await trio.testing.wait_all_tasks_blocked(0.001)

    [listener, *_] = await nursery.start(partial(trio.serve_tcp, host="127.0.0.1"), proxy, 0)
    port = listener.socket.getsockname()[1]
    pool = edge.pool(proxy=f"socks5://127.0.0.1:{port}")
    async with edge.lib.AsyncClient(transport=pool, trust_env=False) as client:
        assert (await client.get("http://somewhere.example/")).text == "ok"


@pytest.mark.parametrize(
    ("headers", "complaint"),
    [
        ([("x", "y")], ":status"),
        ([(":status", "abc")], "abc"),
        ([(":status", "200"), ("x", "a\r\nb: c")], "line break"),
    ],
)
async def test_http2_head_that_is_none_is_a_protocol_error(
    edge: Edge, nursery: trio.Nursery, headers: list[tuple[str, str]], complaint: str
) -> None:
    async def script(stream: Stream) -> None:
        h2 = stream.connection.h2
        h2.config.validate_outbound_headers = h2.config.normalize_outbound_headers = False
        h2.send_headers(stream.number, headers, end_stream=True)
        await stream.connection.flush()

    server = await H2Server(script).start(nursery)
    pool = edge.pool(http1=False, http2=True)
    async with edge.lib.AsyncClient(transport=pool, trust_env=False) as client:
        with pytest.raises(edge.lib.RemoteProtocolError, match=complaint):
            await client.get(server.url)


@pytest.mark.parametrize("body", [False, True], ids=["head", "body"])
async def test_error_leaves_nothing_to_the_garbage_collector(edge: Edge, nursery: trio.Nursery, body: bool) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        if body:
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        connection.reset()

    async def fail() -> None:
        with pytest.raises(edge.lib.TransportError):
            response = await pool.handle_async_request(edge.lib.Request("POST", server.url))
            await response.aread()

    server = await RawServer(script).start(nursery)
    async with edge.pool() as pool:
        await fail()
        gc.collect()
        gc.disable()
        try:
            for _ in range(10):
                await fail()
            assert gc.collect() < 10 * 10  # it was some eighty for each
        finally:
            gc.enable()
