"""Keep a WebSocket alive with trio-websocket: the server drops it, and falls silent, and the loop that reads notices nothing."""

from __future__ import annotations

import contextlib
import functools

import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    WebSocketRequest,
    serve_websocket,
    wrap_client_stream,
)

import trioresil


class Prices:
    """The server: told a metal, it sends prices. Its first connection breaks, its second hangs, a third is well."""

    def __init__(self) -> None:
        self.connections = 0
        self.price = 100
        self.told: list[str] = []

    async def handle(self, request: WebSocketRequest) -> None:
        if b"Bearer secret" not in [value for _, value in request.headers]:
            await request.reject(401)
            return
        self.connections += 1
        with contextlib.suppress(ConnectionClosed):
            async with await request.accept() as ws, trio.open_nursery() as nursery:
                nursery.start_soon(self.listen, ws)
                await self.send(ws)
                nursery.cancel_scope.cancel()

    async def listen(self, ws: WebSocketConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.told.append(str(await ws.get_message()))

    async def send(self, ws: WebSocketConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            for sent in range(100):
                if sent == 3 and self.connections == 1:
                    return
                if sent == 3 and self.connections == 2:
                    await trio.sleep(2)  # it is not there any more, and doesn't say so
                self.price += 1
                await ws.send_message(str(self.price))
                await trio.sleep(0.02)


def is_passing(error: Exception) -> bool:
    """What another connection may cure. A 401 is not among it."""
    if isinstance(error, ConnectionRejected):
        return bool(error.status_code >= 500)
    return isinstance(error, (OSError, ConnectionClosed, HandshakeError))


async def session(port: int, token: str, link: trioresil.StreamLink[int]) -> None:
    headers = [(b"Authorization", f"Bearer {token}".encode())]
    # The TCP stream is ours, so that it is closed however this ends; open_websocket() leaves a refused one to the collector.
    async with await trio.open_tcp_stream("127.0.0.1", port) as tcp, trio.open_nursery() as nursery:
        ws = await wrap_client_stream(nursery, tcp, "127.0.0.1", "/prices", extra_headers=headers)
        link.alive()
        nursery.start_soon(transmit, ws, link)
        while True:
            await link.send_item(int(await ws.get_message()))


async def transmit(ws: WebSocketConnection, link: trioresil.StreamLink[int]) -> None:
    await ws.send_message("gold")  # each connection begins with the subscription
    async for message in link.outgoing:
        await ws.send_message(message)


class Printer:
    def record(self, event: trioresil.Event) -> None:
        if isinstance(event, trioresil.StreamBroken):
            print(f"session {event.session} {event.reason}")


async def main() -> None:
    prices = Prices()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, prices.handle, "127.0.0.1", 0, None)
        with trioresil.instrument(Printer()):
            await follow(server.port)
        nursery.cancel_scope.cancel()
    print(f"the server was told {prices.told}")


async def follow(port: int) -> None:
    keep_alive = functools.partial(
        trioresil.open_stream,
        on=is_passing,
        backoff=trioresil.exponential(0.05, max=1),
        heartbeat_timeout=0.5,
        name="prices",
    )
    async with keep_alive(functools.partial(session, port, "secret")) as stream:
        print([await anext(stream) for _ in range(10)])
        await stream.send("silver")
        print(stream)
        await trio.sleep(0.05)

    try:
        async with keep_alive(functools.partial(session, port, "wrong")) as stream:
            await anext(stream)
    except* ConnectionRejected:
        print(f"with a wrong token: {stream.statistics().sessions} attempt, {stream.statistics().last_error!r}")


if __name__ == "__main__":
    trio.run(main)
