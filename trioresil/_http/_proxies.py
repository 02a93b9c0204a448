"""Proxies, as ways to dial: so one pool, and one set of limits, serves all of them.

An HTTP proxy forwards plain requests, which then carry the whole URL, and opens tunnels for TLS (CONNECT); a SOCKS5 proxy opens
tunnels for both, and looks the name up on its side.
"""

from __future__ import annotations

import base64
import ssl
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from ._dial import Dialler
    from ._engine import Engine
    from ._leases import Origin
    from ._trace import Trace

Headers: TypeAlias = list[tuple[bytes, bytes]]

_SOCKS_REPLIES: Final = {
    b"\x00": "Succeeded",
    b"\x01": "General SOCKS server failure",
    b"\x02": "Connection not allowed by ruleset",
    b"\x03": "Network unreachable",
    b"\x04": "Host unreachable",
    b"\x05": "Connection refused",
    b"\x06": "TTL expired",
    b"\x07": "Command not supported",
    b"\x08": "Address type not supported",
}


def make_proxy(engine: Engine, proxy: Any) -> Any:
    """Return the way through a proxy: None, a URL, or a Proxy of the client library."""
    client = engine.library.client
    if proxy is None:
        return None
    if isinstance(proxy, (str, client.URL)):
        proxy = client.Proxy(url=proxy)
    if proxy.url.scheme in ("http", "https"):
        return HttpProxy(engine, proxy)
    if proxy.url.scheme in ("socks5", "socks5h"):
        return SocksProxy(engine, proxy)
    raise ValueError(f"proxy must be an http://, https://, socks5:// or socks5h:// URL, not {proxy.url.scheme!r}")


def _origin(engine: Engine, url: Any) -> Any:
    default = {"http": 80, "https": 443}.get(url.scheme, 1080)
    return engine.core.Origin(scheme=url.raw_scheme, host=url.raw_host, port=url.port or default)


class HttpProxy:
    """A proxy that is spoken to in HTTP, with or without TLS."""

    def __init__(self, engine: Engine, proxy: Any) -> None:
        self._engine = engine
        self.origin = _origin(engine, proxy.url)
        self._host = proxy.url.raw_host.decode("ascii")
        self._context: ssl.SSLContext | None = None
        if proxy.url.scheme == "https":
            self._context = proxy.ssl_context or engine.core.default_ssl_context()
        elif proxy.ssl_context is not None:
            raise ValueError("proxy has an ssl_context, which goes with an https:// proxy only")
        self._headers: Headers = list(proxy.headers.raw)
        if proxy.raw_auth is not None:
            credentials = base64.b64encode(b":".join(proxy.raw_auth))
            self._headers.insert(0, (b"Proxy-Authorization", b"Basic " + credentials))

    def forwards(self, origin: Origin) -> bool:
        """Tell whether requests to an origin are forwarded: those without TLS."""
        return bool(origin.core.scheme == b"http")

    def merged(self, headers: Headers) -> Headers:
        """Return a request's headers with those for the proxy in front, as far as the request has none of the name."""
        return _merge(self._headers, headers)

    async def connect(self, dialler: Dialler, origin: Origin, trace: Trace | None) -> Any:
        """Return a stream to the proxy for forwarding, or through it to the origin."""
        stream = await dialler.connect(self._host, self.origin.port, trace)
        try:
            if self._context is not None:
                stream = await dialler.encrypt(stream, self._context, self._host, ["http/1.1"], trace)
            if not self.forwards(origin):
                stream = await self._tunnel(stream, origin, trace)
        except BaseException:
            stream.close_now()
            raise
        return stream

    async def _tunnel(self, stream: Any, origin: Origin, trace: Trace | None) -> Any:
        engine, core = self._engine, self._engine.core
        target = b"%b:%d" % (_bracketed(origin.core.host), origin.core.port)
        headers = _merge([(b"Host", target), (b"Accept", b"*/*")], self._headers)
        extensions = {} if trace is None else {"trace": trace}
        request = core.Request(b"CONNECT", engine.url(self.origin, target), headers=headers, extensions=extensions)
        connection = core.AsyncHTTP11Connection(origin=self.origin, stream=stream, keepalive_expiry=None)
        response = await connection.handle_async_request(request)
        if not 200 <= response.status <= 299:
            reason = response.extensions.get("reason_phrase", b"").decode("ascii", errors="ignore")
            raise core.ProxyError(f"{response.status} {reason}")
        return stream


class SocksProxy:
    """A SOCKS5 proxy. Names are looked up by the proxy, for socks5:// as for socks5h://."""

    def __init__(self, engine: Engine, proxy: Any) -> None:
        try:
            import socksio
        except ImportError:
            raise ImportError("proxy is a SOCKS proxy, for which socksio is needed: install trioresil[socks]") from None
        self._engine = engine
        self._socks = socksio
        self.origin = _origin(engine, proxy.url)
        self._host = proxy.url.raw_host.decode("ascii")
        self._auth: tuple[bytes, bytes] | None = proxy.raw_auth

    def forwards(self, _origin: Origin) -> bool:
        """Tell whether requests are forwarded: never."""
        return False

    async def connect(self, dialler: Dialler, origin: Origin, trace: Trace | None) -> Any:
        """Return a stream through the proxy to the origin."""
        stream = await dialler.connect(self._host, self.origin.port, trace)
        try:
            await self._greet(stream, origin)
        except self._socks.ProtocolError as exc:
            stream.close_now()
            raise self._engine.core.ProxyError(f"the proxy doesn't speak SOCKS5: {exc}") from exc
        except BaseException:
            stream.close_now()
            raise
        return stream

    async def _greet(self, stream: Any, origin: Origin) -> None:
        socks5, error = self._socks.socks5, self._engine.core.ProxyError
        talk = socks5.SOCKS5Connection()
        methods = socks5.SOCKS5AuthMethod
        method = methods.NO_AUTH_REQUIRED if self._auth is None else methods.USERNAME_PASSWORD
        answer = await self._ask(stream, talk, socks5.SOCKS5AuthMethodsRequest([method]))
        if answer.method != method:
            raise error(f"Requested {_words(method)} from proxy server, but got {_words(answer.method)}.")
        if self._auth is not None:
            answer = await self._ask(stream, talk, socks5.SOCKS5UsernamePasswordRequest(*self._auth))
            if not answer.success:
                raise error("Invalid username/password")
        where = (origin.core.host, origin.core.port)
        connect = socks5.SOCKS5CommandRequest.from_address(socks5.SOCKS5Command.CONNECT, where)
        answer = await self._ask(stream, talk, connect)
        if answer.reply_code != socks5.SOCKS5ReplyCode.SUCCEEDED:
            raise error(f"Proxy Server could not connect: {_SOCKS_REPLIES.get(answer.reply_code.value, 'UNKNOWN')}.")

    async def _ask(self, stream: Any, talk: Any, request: Any) -> Any:
        talk.send(request)
        await stream.write(talk.data_to_send())
        reply = await self._exactly(stream, 2)
        if isinstance(request, self._socks.socks5.SOCKS5CommandRequest):
            reply += await self._exactly(stream, 3)  # up to the kind of address, and its first byte
            reply += await self._exactly(stream, {1: 5, 4: 17}.get(reply[3], reply[4] + 2))
        return talk.receive_data(reply)

    async def _exactly(self, stream: Any, size: int) -> bytes:
        """Read so many bytes, which may come in parts; what comes after them is not the proxy's."""
        data = b""
        while len(data) < size:
            part = await stream.read(size - len(data))
            if not part:
                raise self._engine.core.ProxyError("the proxy closed the connection before it answered")
            data += part
        return data


def _words(method: Any) -> str:
    return {0: "NO AUTHENTICATION REQUIRED", 1: "GSSAPI", 2: "USERNAME/PASSWORD", 255: "NO ACCEPTABLE METHODS"}.get(
        method.value[0] if isinstance(method.value, bytes) else method.value, "UNKNOWN"
    )


def _bracketed(host: bytes) -> bytes:
    return b"[%b]" % host if b":" in host else host


def _merge(defaults: Headers, headers: Headers) -> Headers:
    """Return both, without those defaults that the headers have too."""
    given = {name.lower() for name, _ in headers}
    return [item for item in defaults if item[0].lower() not in given] + list(headers)
