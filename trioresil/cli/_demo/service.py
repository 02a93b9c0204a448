"""The flaky HTTP service: a Starlette application on Hypercorn, and a front that can cut connections.

An application can't reset a connection: that is below HTTP. So a few lines of TCP stand before the server, pass bytes on, and cut
a connection when the application asks for it.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import hypercorn.trio
import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .weather import Kind, Weather, slot

HOST: Final = "127.0.0.1"
CUT: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: closing then sends a reset."""


class FlakyService:
    """One instance of the service, its weather, and its own count of what it was asked.

    Args:
      weather (Weather): decides each request's fate.
      clock (() -> seconds): time since the start, for the weather.
      on_request ((seconds) -> None): told of each request when it arrives.

    Attributes:
      requests (int): how many arrived, health checks aside.
      waiting (int): how many of them wait for an answer.
      by_weather, by_action: how many arrived in each kind of weather, and were treated in each way.
    """

    def __init__(
        self, weather: Weather, clock: Callable[[], float], on_request: Callable[[float], None] = lambda at: None
    ) -> None:
        self._weather = weather
        self._clock = clock
        self._on_request = on_request
        self._slot = -1
        self._in_slot = 0
        self._front = _Front()
        self.requests = 0
        self.waiting = 0
        self.by_weather: Counter[Kind] = Counter()
        self.by_action: Counter[str] = Counter()
        self.app = Starlette(routes=[Route("/items/{name}", self._item), Route("/health", self._health)])

    async def serve(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve on a free port of the loopback interface until cancelled; started with the base URL."""
        config = Config()
        config.bind = [f"{HOST}:0"]
        config.errorlog = None
        config.keep_alive_timeout = 60  # longer than the clients keep a connection: no races about idle ones
        app: Any = self.app  # Starlette's and Hypercorn's types say the same in different words
        async with trio.open_nursery() as nursery:
            binds: list[str] = await nursery.start(partial(hypercorn.trio.serve, app, config))
            port = int(binds[0].rpartition(":")[2])
            listeners: list[trio.SocketListener] = await nursery.start(self._front.serve, port)
            task_status.started(f"http://{HOST}:{listeners[0].socket.getsockname()[1]}")

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"healthy": True})

    async def _item(self, request: Request) -> Response:
        at = self._clock()
        self._in_slot = self._in_slot + 1 if slot(at) == self._slot else 0
        self._slot = slot(at)
        fate = self._weather.fate(at, self._in_slot)
        self.requests += 1
        self.by_weather[self._weather.phase(at).kind] += 1
        self.by_action[fate.action] += 1
        self._on_request(at)
        self.waiting += 1
        try:
            is_gone = await _is_gone_within(fate.delay, request)
        finally:
            self.waiting -= 1
        if is_gone:
            return Response()
        if fate.action == "reset":
            assert request.client is not None
            self._front.cut(request.client.port)
            return Response()
        if fate.action == "unavailable":
            headers = {} if fate.retry_after is None else {"Retry-After": str(fate.retry_after)}
            return Response(status_code=503, headers=headers)
        return JSONResponse({"name": request.path_params["name"], "answered_at": at})


async def _is_gone_within(seconds: float, request: Request) -> bool:
    """Wait, but not for longer than the client does; return whether it went away."""
    with trio.move_on_after(seconds):
        while (await request.receive())["type"] != "http.disconnect":
            pass
        return True
    return False


class _Front:
    """Accepts connections, passes bytes between each and the server behind, and cuts one when told to."""

    def __init__(self) -> None:
        self._connections: dict[int, tuple[trio.SocketStream, trio.CancelScope]] = {}

    async def serve(
        self, behind: int, *, task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await trio.serve_tcp(partial(self._connection, behind), 0, host=HOST, backlog=512, task_status=task_status)

    def cut(self, port: int) -> None:
        """Reset the connection that the server behind knows by this port of its peer."""
        client, scope = self._connections[port]
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, CUT)
        scope.cancel(reason="the connection is to be reset")

    async def _connection(self, behind: int, client: trio.SocketStream) -> None:
        try:
            server = await trio.open_tcp_stream(HOST, behind)
        except OSError:
            return
        port = server.socket.getsockname()[1]
        async with server, trio.open_nursery() as nursery:
            self._connections[port] = (client, nursery.cancel_scope)
            try:
                nursery.start_soon(_pass_on, server, client, nursery.cancel_scope)
                await _pass_on(client, server, nursery.cancel_scope)
            finally:
                del self._connections[port]


async def _pass_on(source: trio.SocketStream, sink: trio.SocketStream, connection: trio.CancelScope) -> None:
    try:
        while data := await source.receive_some():
            await sink.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    connection.cancel(reason="one side has closed the connection")
