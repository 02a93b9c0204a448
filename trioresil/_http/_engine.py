"""A client library's protocol engine, as PoolTransport uses it: classes with cheaper constructors, errors translated.

The core's own constructors check and convert each header of each request again, and an URL builds its origin each time that it
is asked. Here both come ready. They are subclasses, so that a `trace` extension and the engine see what they know.
"""

from __future__ import annotations

import functools
from typing import Any

from ._body import Body
from ._library import Library
from ._wires import NetworkStream


class Engine:
    """What is made once for each client library."""

    def __init__(self, library: Library) -> None:
        core, client = library.core, library.client
        self.library = library
        self.core = core
        self.stream: Any = type("NetworkStream", (NetworkStream, core.AsyncNetworkStream), {"_core": core})
        self.url: Any = type("URL", (_Url, core.URL), {})
        self.request: Any = type("Request", (_Request, core.Request), {})
        self.body: Any = type("Body", (Body, client.AsyncByteStream), {})
        self.response: Any = client.Response
        self.errors = _errors(core, client)
        self.http11: Any = core.AsyncHTTP11Connection
        self._http2: Any = None
        # What a connection that had been closed by the other side looks like to one who sends on it.
        self.broken = (core.ReadError, core.WriteError, core.RemoteProtocolError, core.ConnectionNotAvailable)

    @property
    def http2(self) -> Any:
        """The class of HTTP/2 connections; an ImportError without h2."""
        if self._http2 is None:
            from ._h2_connection import HTTP2Connection

            self._http2 = HTTP2Connection
        return self._http2

    def translated(self, exc: Exception) -> Exception | None:
        """Return the client library's error for one of the engine's; None for what isn't the engine's."""
        known = self.errors.get(type(exc))
        if known is None:
            for kind in type(exc).__mro__:
                known = self.errors.get(kind)
                if known is not None:
                    break
            else:
                return None
        error: Exception = known(str(exc))
        return error


class _Url:
    """An URL that keeps its origin."""

    def __init__(self, origin: Any, target: bytes) -> None:
        self.scheme, self.host, self.port = origin.scheme, origin.host, origin.port
        self.target = target
        self._origin = origin

    @property
    def origin(self) -> Any:
        return self._origin


class _Request:
    """A request whose parts are already what the engine wants."""

    def __init__(
        self, method: bytes, url: Any, headers: list[tuple[bytes, bytes]], stream: Any, extensions: dict[str, Any]
    ) -> None:
        self.method, self.url, self.headers, self.stream, self.extensions = method, url, headers, stream, extensions


def _errors(core: Any, client: Any) -> dict[type[BaseException], Any]:
    names = (
        "TimeoutException",
        "ConnectTimeout",
        "ReadTimeout",
        "WriteTimeout",
        "PoolTimeout",
        "NetworkError",
        "ConnectError",
        "ReadError",
        "WriteError",
        "ProxyError",
        "UnsupportedProtocol",
        "ProtocolError",
        "LocalProtocolError",
        "RemoteProtocolError",
    )
    table: dict[type[BaseException], Any] = {getattr(core, name): getattr(client, name) for name in names}
    # The engine lets these out where httpx has no class for them, or where it doesn't look.
    table[core.ConnectionNotAvailable] = client.RemoteProtocolError
    import h11

    table[h11.LocalProtocolError] = client.LocalProtocolError
    table[h11.RemoteProtocolError] = client.RemoteProtocolError
    try:
        import h2.exceptions
    except ImportError:
        return table
    table[h2.exceptions.ProtocolError] = client.RemoteProtocolError
    return table


@functools.cache
def engine_of(library: Library) -> Engine:
    """Return the engine of a client library."""
    return Engine(library)
