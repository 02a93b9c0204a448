"""Hypercorn's Trio worker for the live page, with connections that can be counted and cut off.

`hypercorn.trio.serve` shields what it sends from cancellation, so a browser that stops reading would hold up the program that the
page belongs to when it wants to end. Here each connection is Hypercorn's own, but is accepted, and closed, by us.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from typing import Any, Final

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

MAX_CONNECTIONS: Final = 1_000
HEADER_TIME: Final = 10.0  # seconds

_logger = logging.getLogger("trioresil")


class Server:
    """Serves one ASGI application on listening sockets.

    Args:
      app: the application.
      listeners (list of trio.SocketListener): where.
    """

    def __init__(self, app: Any, listeners: list[trio.SocketListener]) -> None:
        self._app = ASGIWrapper(app)
        self._listeners = listeners
        self._connections: dict[Any, trio.SocketStream] = {}
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
        for peer in list(self._connections):
            self.cut_off(peer)

    def cut_off(self, peer: Any) -> None:
        """Close the connection to a peer, whatever is being sent on it. Synchronous."""
        stream = self._connections.get(peer)
        if stream is not None:
            stream.socket.close()

    async def _serve(self, stream: trio.SocketStream) -> None:
        with self._counted(stream) as accepted:
            if not accepted:
                return
            try:
                connection: Any = stream  # Hypercorn takes plain ones too, though its annotation says TLS
                await TCPServer(self._app, self._config, self._context, ConnectionState({}), connection)
            except Exception as exc:
                # A connection that is reset at the wrong moment is no reason to end the program; what else goes wrong is told.
                if not _is_reset(exc):
                    _logger.exception("the live page: a connection failed")

    @contextlib.contextmanager
    def _counted(self, stream: trio.SocketStream) -> Iterator[bool]:
        try:
            peer = stream.socket.getpeername()[:2]
        except OSError:  # it is gone already
            stream.socket.close()
            yield False
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            stream.socket.close()
            yield False
            return
        self._connections[peer] = stream
        try:
            yield True
        finally:
            del self._connections[peer]
            stream.socket.close()


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
