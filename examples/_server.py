"""A tiny HTTP/1.1 server on loopback, so that the examples have somebody to talk to. Nothing in here is about trioresil."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from typing import NamedTuple

import h11
import trio


class Request(NamedTuple):
    """What the client asked for."""

    method: str
    target: str
    body: bytes
    headers: Mapping[str, str] = {}  # names in lower case


class Reply(NamedTuple):
    """What it is told. A body in pieces is streamed."""

    status: int = 200
    body: bytes | AsyncGenerator[bytes] = b""
    headers: Mapping[str, str] = {}


class Reset(Exception):
    """Raise this in a handler to drop the connection instead of answering."""


Handler = Callable[[Request], Awaitable[Reply]]


@asynccontextmanager
async def serve(handler: Handler) -> AsyncIterator[str]:
    """Serve on a free port of 127.0.0.1 while the block runs; gives the base URL."""

    async def talk(stream: trio.SocketStream) -> None:
        with suppress(Reset, trio.BrokenResourceError, h11.RemoteProtocolError):
            await _converse(stream, handler)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, talk, listeners)
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def _converse(stream: trio.SocketStream, handler: Handler) -> None:
    connection = h11.Connection(h11.SERVER)
    while (request := await _receive(stream, connection)) is not None:
        reply = await handler(request)
        framing = ("Content-Length", str(len(reply.body))) if isinstance(reply.body, bytes) else ("Connection", "close")
        head = h11.Response(status_code=reply.status, headers=[*reply.headers.items(), framing])
        await stream.send_all(connection.send(head) or b"")
        if isinstance(reply.body, bytes):
            await stream.send_all(connection.send(h11.Data(data=reply.body)) or b"")
        else:
            async with aclosing(reply.body) as pieces:
                async for piece in pieces:
                    await stream.send_all(connection.send(h11.Data(data=piece)) or b"")
        await stream.send_all(connection.send(h11.EndOfMessage()) or b"")
        if connection.our_state is not h11.DONE:
            return
        connection.start_next_cycle()


async def _receive(stream: trio.SocketStream, connection: h11.Connection) -> Request | None:
    head: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = {name.decode(): value.decode() for name, value in head.headers}
            return Request(head.method.decode(), head.target.decode(), body, headers)
        else:
            return None
