"""A forward proxy (absolute targets and CONNECT) and a SOCKS5 proxy, small, and with a memory of what they were asked."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable

import trio


async def _pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    while data := await source.receive_some(65536):
        await sink.send_all(data)
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await sink.send_eof()


async def _join(one: trio.SocketStream, other: trio.SocketStream) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_pump, one, other)
        nursery.start_soon(_pump, other, one)


class _Proxy:
    def __init__(self, *, auth: tuple[str, str] | None = None) -> None:
        self.auth = auth
        self.asked: list[str] = []
        """What the proxy was asked to reach: "CONNECT host:port", "GET http://...", or "SOCKS host:port"."""
        self.open = 0
        self.accepted = 0
        self.port = 0
        self._changed = trio.Event()

    async def wait(self, condition: Callable[[_Proxy], bool]) -> None:
        """Waits until a condition on this proxy holds; it is asked whenever a connection comes or goes."""
        while not condition(self):
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def start(self, nursery: trio.Nursery) -> _Proxy:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        await nursery.start(trio.serve_listeners, self._connection, [listener])
        return self

    async def _connection(self, client: trio.SocketStream) -> None:
        self.open += 1
        self.accepted += 1
        self._wake()
        try:
            await self._serve(client)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass
        finally:
            client.socket.close()
            self.open -= 1
            self._wake()

    async def _serve(self, client: trio.SocketStream) -> None:
        raise NotImplementedError


class ForwardProxy(_Proxy):
    """An HTTP proxy. ``refuse``: a status line's code and reason with which every CONNECT is refused."""

    def __init__(self, *, auth: tuple[str, str] | None = None, refuse: str | None = None) -> None:
        super().__init__(auth=auth)
        self.refuse = refuse

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, client: trio.SocketStream) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            part = await client.receive_some(65536)
            if not part:
                return
            data += part
        head, rest = data.split(b"\r\n\r\n", 1)
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        headers = [line for line in lines if not line.lower().startswith("proxy-")]
        self.asked.append(f"{method} {target}")
        if not self._allowed(lines):
            await client.send_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        elif method == "CONNECT":
            await self._tunnel(client, target, rest)
        else:
            await self._forward(client, method, target, version, headers, rest)

    def _allowed(self, lines: list[str]) -> bool:
        if self.auth is None:
            return True
        wanted = base64.b64encode(":".join(self.auth).encode()).decode()
        return any(line.lower() == f"proxy-authorization: basic {wanted}".lower() for line in lines)

    async def _tunnel(self, client: trio.SocketStream, target: str, rest: bytes) -> None:
        if self.refuse is not None:
            await client.send_all(f"HTTP/1.1 {self.refuse}\r\nContent-Length: 0\r\n\r\n".encode())
            return
        host, port = target.rsplit(":", 1)
        async with await trio.open_tcp_stream(host, int(port)) as server:
            await client.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            if rest:
                await server.send_all(rest)
            await _join(client, server)

    async def _forward(
        self, client: trio.SocketStream, method: str, target: str, version: str, headers: list[str], rest: bytes
    ) -> None:
        # One origin a connection: what follows the first request is passed on as it is. Origins accept absolute targets.
        authority, _, path = target.removeprefix("http://").partition("/")
        host, _, port = authority.partition(":")
        async with await trio.open_tcp_stream(host, int(port or 80)) as server:
            head = "\r\n".join([f"{method} /{path} {version}", *headers]) + "\r\n\r\n"
            await server.send_all(head.encode("latin-1") + rest)
            await _join(client, server)


class SocksProxy(_Proxy):
    """A SOCKS5 proxy: CONNECT by name or address, with a user name and a password if it was told one."""

    @property
    def url(self) -> str:
        return f"socks5://127.0.0.1:{self.port}"

    async def _serve(self, client: trio.SocketStream) -> None:
        buffered = bytearray()

        async def read(size: int) -> bytes:
            while len(buffered) < size:
                part = await client.receive_some(65536)
                if not part:
                    raise trio.BrokenResourceError
                buffered.extend(part)
            data = bytes(buffered[:size])
            del buffered[:size]
            return data

        _, methods = await read(2)
        offered = await read(methods)
        wanted = 0 if self.auth is None else 2
        if wanted not in offered:
            await client.send_all(b"\x05\xff")
            return
        await client.send_all(bytes([5, wanted]))
        if self.auth is not None:
            user = (await read((await read(2))[1])).decode()
            password = (await read((await read(1))[0])).decode()
            good = (user, password) == self.auth
            await client.send_all(bytes([1, 0 if good else 1]))
            if not good:
                return
        _, _, _, kind = await read(4)
        address = await read(4 if kind == 1 else (await read(1))[0])
        host = ".".join(str(part) for part in address) if kind == 1 else address.decode()
        port = int.from_bytes(await read(2), "big")
        self.asked.append(f"SOCKS {host}:{port}")
        async with await trio.open_tcp_stream(host, port) as server:
            await client.send_all(b"\x05\x00\x00\x01" + bytes(6))
            if buffered:
                await server.send_all(bytes(buffered))
            await _join(client, server)
