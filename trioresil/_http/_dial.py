"""Dialling: from an origin to a stream that is ready for the protocol, directly or through a proxy.

TCP by Happy Eyeballs, or a Unix socket; then the proxy's part, if there is one; then TLS with ALPN. The time limit is the
caller's, one for all of it. Everything that goes wrong is an error of the engine; a wire that isn't handed over is closed.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

import trio

from ._edge_errors import mark_connecting
from ._trace import Trace, traced
from ._wires import Wire

if TYPE_CHECKING:
    from ._engine import Engine
    from ._leases import Origin


class Dialler:
    """Makes streams to origins.

    Args:
      engine: the protocol engine of the client library.
      context: returns the TLS context of the moment.
      alpn: the protocols that are offered over TLS.
      proxy: the way through a proxy, or None.
      uds: path of a Unix socket, or None.
      local_address: address to dial from, or None.
      socket_options: options for each socket.
    """

    def __init__(
        self,
        engine: Engine,
        context: Callable[[], ssl.SSLContext],
        *,
        alpn: list[str],
        proxy: Any = None,
        uds: str | None = None,
        local_address: str | None = None,
        socket_options: Iterable[tuple[Any, ...]] = (),
    ) -> None:
        self._engine = engine
        self._context = context
        self._alpn = alpn
        self._proxy = proxy
        self._uds = uds
        self._local_address = local_address
        self._socket_options = tuple(socket_options)
        self._open: Callable[[str, int], Awaitable[Any]] = self._open_socket

    async def dial(self, origin: Origin, trace: Trace | None) -> Any:
        """Return a stream to an origin, after every handshake."""
        try:
            if self._proxy is None:
                stream = await self.connect(origin.core.host.decode("ascii"), origin.core.port, trace)
            else:
                stream = await self._proxy.connect(self, origin, trace)
            if origin.encrypted:  # which closes the stream if it fails
                stream = await self.encrypt(stream, self._context(), origin.server_hostname, self._alpn, trace)
            return stream
        except BaseException as exc:
            mark_connecting(exc)
            raise

    def forwards(self, origin: Origin) -> bool:
        """Tell whether requests to an origin are sent to a proxy as they are, instead of through a tunnel."""
        return self._proxy is not None and bool(self._proxy.forwards(origin))

    def origin_on_wire(self, origin: Origin) -> Any:
        """Return the engine's Origin that a connection talks to: the origin, or a forwarding proxy."""
        return self._proxy.origin if self.forwards(origin) else origin.core

    def forwarded(self, origin: Origin, target: bytes, headers: Any) -> tuple[Any, bytes, Any]:
        """Return what a request to a forwarding proxy has for origin, target and headers."""
        return self._proxy.origin, origin.url + target, self._proxy.merged(headers)

    async def connect(self, host: str, port: int, trace: Trace | None) -> Any:
        """Return a stream over a new connection to a host."""
        if self._uds is None:
            details: dict[str, Any] = {"host": host, "port": port, "local_address": self._local_address}
            name = "connection.connect_tcp"
        else:
            details, name = {"path": self._uds}, "connection.connect_unix_socket"
        try:
            wire = await traced(trace, name, details, self._open(host, port))
        except (OSError, trio.BrokenResourceError) as exc:
            raise self._engine.core.ConnectError(str(exc)) from exc
        return self._engine.stream(getattr(wire, "stream", wire), wire)

    async def encrypt(
        self, stream: Any, context: ssl.SSLContext, host: str, alpn: list[str] | None, trace: Trace | None
    ) -> Any:
        """Return a stream with TLS over another, which is closed if that fails."""
        details = {"ssl_context": context, "server_hostname": host}
        return await traced(trace, "connection.start_tls", details, stream.encrypt(context, host, alpn))

    async def _open_socket(self, host: str, port: int) -> Wire:
        if self._uds is not None:
            stream = await trio.open_unix_socket(self._uds)
        else:
            stream = await trio.open_tcp_stream(host, port, local_address=self._local_address)
        wire = Wire(stream.socket)
        try:
            for option in self._socket_options:
                stream.socket.setsockopt(*option)
        except BaseException:
            wire.close_now()
            raise
        return wire
