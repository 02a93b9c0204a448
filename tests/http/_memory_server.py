"""A server in memory for a PoolTransport: no sockets, so runs on the virtual clock and in sweeps.

A script is ``async def script(peer)``, run once for each connection, in a task of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import trio
import trio.testing

Script: TypeAlias = "Callable[[Peer], Awaitable[object]]"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Wire:
    """What PoolTransport dials: the client's end."""

    def __init__(self, stream: trio.StapledStream[Any, Any]) -> None:
        self._stream = stream
        self.sent = False
        self.shield = None
        self.unread = 0
        self.closed = False
        self.breaks_writes = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data: bytes = await self._stream.receive_some(max_bytes)
        self.unread = 0
        return data

    async def send_all(self, data: bytes) -> None:
        if self.breaks_writes:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError("broken pipe")
        await self._stream.send_all(data)
        self.sent = True

    def close_now(self) -> None:
        self.closed = True
        self._stream.send_stream.close()
        self._stream.receive_stream.close()

    def is_readable(self) -> bool:
        return self.closed or self.unread > 0

    def is_ended(self) -> bool:
        return self.closed


class Peer:
    """The server's end of one connection."""

    def __init__(self, server: Server, stream: trio.StapledStream[Any, Any], wire: Wire, number: int) -> None:
        self.server = server
        self.wire = wire
        self.number = number
        self._stream = stream
        self._buffer = b""

    async def request(self) -> bytes:
        """Returns the head of the next request, with its body of known length; b"" when the client has gone."""
        while b"\r\n\r\n" not in self._buffer:
            if not await self._more():
                return b""
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        while len(rest) < length:
            if not await self._more():
                return b""
            rest = self._buffer.partition(b"\r\n\r\n")[2]
        self._buffer = rest[length:]
        self.server.requests.append(head.split(b" ")[0].decode() + " " + head.split(b" ")[1].decode())
        return head

    async def _more(self) -> bool:
        data = await self._stream.receive_some()
        self._buffer += data
        return bool(data)

    async def send(self, data: bytes) -> None:
        self.wire.unread += 1
        await self._stream.send_all(data)

    def hang_up(self) -> None:
        """The client sees the end: at once when it looks, or when it reads."""
        self.wire.unread += 1
        self.hang_up_unseen()

    def hang_up_unseen(self) -> None:
        """The client sees the end only when it reads: its look came a moment too early."""
        self._stream.send_stream.close()


async def answers(peer: Peer) -> None:
    """Answers whatever comes."""
    while await peer.request():
        await peer.send(OK)


class Server:
    """Makes connections in memory, and runs the script for each."""

    def __init__(self, nursery: trio.Nursery, script: Script = answers) -> None:
        self.script = script
        self.requests: list[str] = []
        self.peers: list[Peer] = []
        self.dialled: list[tuple[str, int]] = []
        self.dial_seconds = 0.0
        self.refuses = False
        self._nursery = nursery

    @property
    def open(self) -> int:
        return sum(not peer.wire.closed for peer in self.peers)

    def serve(self, transport: Any) -> Any:
        """Lets a transport dial this server, whatever the address."""
        transport._path._dialler._open = self._open
        return transport

    async def _open(self, host: str, port: int) -> Wire:
        self.dialled.append((host, port))
        await trio.sleep(self.dial_seconds)
        if self.refuses:
            raise OSError("refused")
        ours, theirs = trio.testing.memory_stream_pair()
        wire = Wire(ours)
        peer = Peer(self, theirs, wire, len(self.peers) + 1)
        self.peers.append(peer)
        self._nursery.start_soon(self._run, peer)
        return wire

    async def _run(self, peer: Peer) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.script(peer)
