"""An HTTP/1.1 server that does to each connection what a script says, and keeps count of what it was sent.

A script is ``async def script(connection)``, run once for each connection. What it doesn't do is not done: no answer,
no header, no close but the one at its end. So a server that misbehaves is a few lines::

    async def rude(connection):
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\\r\\nContent-Length: 10\\r\\n\\r\\nhalf")

    server = await RawServer(rude).start(nursery)
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

import attrs
import trio

Script: TypeAlias = "Callable[[Connection], Awaitable[object]]"
Headers: TypeAlias = Iterable[tuple[str, str]]


@attrs.frozen(kw_only=True)
class Received:
    """One request as it came over the wire."""

    connection: int
    number: int
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Connection:
    """The server's end of one connection."""

    def __init__(self, server: RawServer, stream: trio.abc.Stream, sock: trio.socket.SocketType, number: int) -> None:
        self.server = server
        self.stream = stream
        self.number = number
        """1 for the server's first connection."""
        self.requests = 0
        """How many requests came over this one."""
        self._socket = sock
        self._buffer = bytearray()

    async def receive(self) -> bytes:
        """Whatever comes next; b"" at the end."""
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            return data
        return bytes(await self.stream.receive_some(65536))

    async def head(self) -> tuple[str, str, dict[str, str]] | None:
        """Reads a request's head: method, target, headers with names in lower case; None when the client has gone."""
        end = await self._until(b"\r\n\r\n")
        if end is None:
            return None
        head = bytes(self._buffer[:end]).decode("latin-1")
        del self._buffer[: end + 4]
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        self.server.heads += 1
        return method, target, headers

    async def body(self, headers: dict[str, str]) -> bytes | None:
        """Reads the body that these headers announce; None if the client went away in the middle."""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return await self._chunks()
        return await self._exactly(int(headers.get("content-length", 0)))

    async def request(self) -> Received | None:
        """Reads one whole request and records it; None when the client has gone."""
        head = await self.head()
        if head is None:
            return None
        method, target, headers = head
        if headers.get("expect", "").lower() == "100-continue":
            await self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await self.body(headers)
        if body is None:
            return None
        self.requests += 1
        received = Received(
            connection=self.number,
            number=self.requests,
            method=method,
            target=target,
            headers=headers,
            body=body,
        )
        self.server.record(received)
        return received

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def respond(self, body: bytes = b"ok", *, status: str = "200 OK", headers: Headers = ()) -> None:
        """Sends a whole answer with a Content-Length."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
        await self.send(head.encode("latin-1") + body)

    async def gone(self) -> None:
        """Waits until the client closes its end, and reads what it sends until then."""
        while await self.receive():
            pass

    def reset(self) -> None:
        """Ends the connection by an RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def fin(self) -> None:
        """Ends the connection by a FIN."""
        self._socket.close()

    async def _until(self, mark: bytes) -> int | None:
        searched = 0
        while (end := self._buffer.find(mark, searched)) < 0:
            searched = max(0, len(self._buffer) - len(mark))
            data = await self.stream.receive_some(65536)
            if not data:
                return None
            self._buffer += data
        return end

    async def _exactly(self, size: int) -> bytes | None:
        while len(self._buffer) < size:
            data = await self.stream.receive_some(65536)
            if not data:
                return None
            self._buffer += data
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def _chunks(self) -> bytes | None:
        body = bytearray()
        while True:
            end = await self._until(b"\r\n")
            if end is None:
                return None
            size = int(bytes(self._buffer[:end]).split(b";")[0], 16)
            del self._buffer[: end + 2]
            chunk = await self._exactly(size + 2)
            if chunk is None:
                return None
            if size == 0:
                return bytes(body)
            body += chunk[:-2]


class RawServer:
    """Listens on loopback (or a Unix socket), and runs a script for each connection.

    Args:
      script: what happens on each connection. Default: `answer`, well-behaved.
      tls: a server's SSLContext; None for plain text.
      host: the address to listen on. Default: 127.0.0.1.
      unix: the path of a Unix socket instead.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        unix: str | None = None,
    ) -> None:
        self.script: Script = answer if script is None else script
        self.received: list[Received] = []
        """Every whole request, in the order in which they were complete."""
        self.heads = 0
        """Heads read: a request whose body never came whole counts here only."""
        self.accepted = 0
        """Connections ever accepted."""
        self.open = 0
        """Connections open now, as far as this end knows."""
        self.most_open = 0
        self.port = 0
        self._tls = tls
        self._host = host
        self._unix = unix
        self._changed = trio.Event()
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()
        self._nursery: trio.Nursery | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{'localhost' if self._tls else self._host}:{self.port}"

    def count(self, method: str) -> int:
        """How many whole requests with this method came."""
        return sum(received.method == method for received in self.received)

    def bodies(self, method: str = "POST") -> list[bytes]:
        return [received.body for received in self.received if received.method == method]

    async def start(self, nursery: trio.Nursery) -> RawServer:
        """Listens, on the port it had before if there was one. Returns itself."""
        self._nursery = nursery
        self._ended = trio.Event()
        await nursery.start(self._serve)
        return self

    async def stop(self) -> None:
        """Closes the port and all connections at once."""
        assert self._scope is not None
        self._scope.cancel(reason="the server is stopped")
        await self._ended.wait()

    async def restart(self) -> None:
        """Stops, and listens again on the same port."""
        assert self._nursery is not None
        await self.stop()
        await self.start(self._nursery)

    def record(self, received: Received) -> None:
        self.received.append(received)
        self._wake()

    async def wait(self, condition: Callable[[RawServer], bool]) -> None:
        """Waits until a condition on this server holds; it is asked whenever a connection or a request comes or goes."""
        while not condition(self):
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _listen(self) -> trio.SocketListener:
        if self._unix is None:
            return (await trio.open_tcp_listeners(self.port, host=self._host, backlog=1000))[0]
        sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        await sock.bind(self._unix)
        sock.listen(100)
        return trio.SocketListener(sock)

    async def _serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        listener = await self._listen()
        if self._unix is None:
            self.port = listener.socket.getsockname()[1]
        with trio.CancelScope() as self._scope:
            try:
                async with trio.open_nursery() as connections:
                    task_status.started()
                    await trio.serve_listeners(self._connection, [listener], handler_nursery=connections)
            finally:
                self._ended.set()

    async def _connection(self, tcp: trio.SocketStream) -> None:
        self.accepted += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        self._wake()
        connection = Connection(self, tcp, tcp.socket, self.accepted)
        try:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                if self._tls is not None:
                    tls = trio.SSLStream(tcp, self._tls, server_side=True, https_compatible=True)
                    connection.stream = tls
                    await tls.do_handshake()
                await self.script(connection)
        finally:
            tcp.socket.close()
            self.open -= 1
            self._wake()


# Scripts


async def answer(connection: Connection) -> None:
    """Answers every request with its method, target and body, for as long as the client likes."""
    while (request := await connection.request()) is not None:
        body = b"" if request.method == "HEAD" else f"{request.method} {request.target} ".encode() + request.body
        await connection.respond(body)


async def silent(connection: Connection) -> None:
    """Reads, and never answers."""
    await connection.gone()


def close_after(responses: int, *, by: str = "fin") -> Script:
    """Answers so many requests on each connection, without a word of closing it, then closes it: "fin" or "rst"."""

    async def script(connection: Connection) -> None:
        for _ in range(responses):
            if await connection.request() is None:
                return
            await connection.respond()
        connection.reset() if by == "rst" else connection.fin()

    return script


def close_on_request(number: int, *, by: str = "fin") -> Script:
    """Answers requests on each connection until the given one is read whole: this ends the connection instead."""

    async def script(connection: Connection) -> None:
        for _ in range(number - 1):
            if await connection.request() is None:
                return
            await connection.respond()
        if await connection.request() is not None:
            connection.reset() if by == "rst" else connection.fin()

    return script


def slow_head(interval: float) -> Script:
    """Answers with a head that drips, a byte in each interval of seconds, and has no end."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while True:
            await trio.sleep(interval)
            await connection.send(b"x")

    return script


def sends(data: bytes, *, then: str = "fin") -> Script:
    """Answers every request with exactly these bytes; then "fin", "rst", or "wait" until the client closes."""

    async def script(connection: Connection) -> None:
        if await connection.request() is None:
            return
        await connection.send(data)
        if then == "wait":
            await connection.gone()
        elif then == "rst":
            connection.reset()

    return script
