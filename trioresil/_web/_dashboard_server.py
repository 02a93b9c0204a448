"""Hypercorn's Trio worker for the live page, with connections that can be counted and cut off.

`hypercorn.trio.serve` shields what it sends from cancellation, so a browser that stops reading would hold up the program that the
page belongs to when it wants to end. Here each connection is Hypercorn's own, but is accepted, and closed, by us.

The law of this file:

1. There are never more connections than were allowed: each takes a file descriptor that the program may need.
2. A connection is told from others as an object, and not by its address: that is the client's choice, and may come twice.
3. Who takes nothing of an answer for MAX_STALL seconds is cut off.
4. Only HTTP/1.1 is spoken. With HTTP/2 a connection that says nothing of use is never idle, and its library logs the headers that
   it reads, tokens included, for whoever debugs.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Iterator
from typing import Any, Final

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER_TIME: Final = 10.0  # seconds
MAX_STALL: Final = 30.0  # seconds

_logger = logging.getLogger("trioresil")


class _Connection:
    """One connection: its socket, and since when an answer on it waits for the other side to read."""

    def __init__(self, app: ASGIApp, stream: trio.SocketStream) -> None:
        self._app = app
        self._stream = stream
        self._sending_since = math.inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def timed(message: Message) -> None:
            self._sending_since = trio.current_time()
            try:
                await send(message)
            finally:
                self._sending_since = math.inf

        try:
            await self._app(scope, receive, timed)
        except Exception as exc:
            # Hypercorn closes a connection that talks nonsense while it is answered, and would log a traceback for the answer.
            if not _is_reset(exc):
                raise

    def sending_since(self) -> float:
        """Return when what is being sent was begun; infinity if nothing is."""
        return self._sending_since

    def close(self) -> None:
        """Close it at once, whatever is being sent. Synchronous."""
        self._stream.socket.close()


class _Protocol(TCPServer):
    """Hypercorn's, for HTTP/1.1 alone; it would keep a connection for its idle time after the other side has gone."""

    async def _read_data(self) -> None:
        protocol: Any = self.protocol.protocol
        protocol._check_protocol = _stay  # the only place where it goes over to HTTP/2
        await super()._read_data()
        await self.idle_task.stop()


async def _stay(request: object) -> None:
    """Pass over an invitation to HTTP/2, as a server may."""


class Server:
    """Serves one ASGI application on listening sockets.

    Args:
      app: the application.
      listeners (list of trio.SocketListener): where.
      max_connections (int): further ones are closed as soon as they are made.
    """

    def __init__(self, app: ASGIApp, listeners: list[trio.SocketListener], *, max_connections: int) -> None:
        self._app = app
        self._listeners = listeners
        self._max_connections = max_connections
        self._connections: set[_Connection] = set()
        self._context = WorkerContext(None)
        self._config = Config()
        self._config.errorlog = _logger
        self._config.accesslog = None
        self._config.include_server_header = False
        self._config.keep_alive_timeout = HEADER_TIME
        self._config.h11_max_incomplete_size = 16 * 1024

    def __len__(self) -> int:
        return len(self._connections)

    async def run(self) -> None:
        """Accept and serve until this is cancelled; then close every connection, without waiting for anybody to read."""
        async with trio.open_nursery() as nursery:
            try:
                await trio.serve_listeners(self._serve, self._listeners, handler_nursery=nursery)
            finally:
                await self._context.terminated.set()
                self.close()
                nursery.cancel_scope.cancel(reason="the live page is closed")

    def close(self) -> None:
        """Close every connection at once."""
        for connection in self._connections:
            connection.close()

    def drop_stalled(self, now: float) -> None:
        """Close the connections to those who take nothing."""
        for connection in self._connections:
            if now - connection.sending_since() > MAX_STALL:
                connection.close()

    async def _serve(self, stream: trio.SocketStream) -> None:
        with self._counted(stream) as connection:
            if connection is None:
                return
            try:
                plain: Any = stream  # Hypercorn takes plain ones too, though its annotation says TLS
                app: Any = connection  # Hypercorn's types of messages are narrower than ASGI's
                await _Protocol(ASGIWrapper(app), self._config, self._context, ConnectionState({}), plain)
            except Exception as exc:
                # A connection that is reset at the wrong moment is no reason to end the program; what else goes wrong is told.
                if not _is_reset(exc):
                    _logger.exception("the live page: a connection failed")

    @contextlib.contextmanager
    def _counted(self, stream: trio.SocketStream) -> Iterator[_Connection | None]:
        if len(self._connections) >= self._max_connections:
            stream.socket.close()
            yield None
            return
        connection = _Connection(self._app, stream)
        self._connections.add(connection)
        try:
            yield connection
        finally:
            self._connections.discard(connection)
            connection.close()


def _is_reset(error: Exception) -> bool:
    if isinstance(error, ExceptionGroup):
        return all(_is_reset(each) for each in error.exceptions)
    return isinstance(error, (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError))


async def listen(host: str, port: int) -> list[trio.SocketListener]:
    """Listen on all addresses of a host; port 0 takes one that is free."""
    try:
        return await functools.partial(trio.open_tcp_listeners, port, host=host)()
    except OSError as exc:
        raise OSError(exc.errno, f"the live page can't listen on {host}, port {port}: {exc.strerror or exc}") from exc
    except UnicodeError:
        raise ValueError(f"host must be an address or a host name, not {host!r}") from None
