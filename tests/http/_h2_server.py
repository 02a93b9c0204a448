"""An HTTP/2 server whose every move is scripted: GOAWAY, RST_STREAM, a lowered limit of streams, answers that wait.

A script is ``async def script(stream)``, run once for each request, in a task of its own. HTTP/2 is spoken by prior
knowledge over plain TCP, or over TLS after ALPN.
"""

from __future__ import annotations

import contextlib
import math
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import attrs
import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import trio

Script: TypeAlias = "Callable[[Stream], Awaitable[object]]"


@attrs.define(eq=False)
class Stream:
    """One request, and the way to answer it."""

    connection: H2Connection
    number: int
    """The stream's number on the wire: 1, 3, 5, ..."""
    headers: dict[str, str]
    body: bytearray = attrs.field(factory=bytearray)
    complete: trio.Event = attrs.field(factory=trio.Event)
    cancelled: trio.Event = attrs.field(factory=trio.Event)
    """Set when the client has reset the stream."""

    @property
    def method(self) -> str:
        return self.headers[":method"]

    @property
    def path(self) -> str:
        return self.headers[":path"]

    async def head(self, status: int = 200, *, end: bool = False) -> None:
        self.connection.h2.send_headers(self.number, [(":status", str(status))], end_stream=end)
        await self.connection.flush()

    async def data(self, data: bytes, *, end: bool = False) -> None:
        """Sends a piece of the body; it must fit the client's window (64 KiB at the start)."""
        self.connection.h2.send_data(self.number, data, end_stream=end)
        await self.connection.flush()

    async def respond(self, body: bytes = b"ok", *, status: int = 200) -> None:
        await self.head(status)
        await self.data(body, end=True)

    async def reset(self, code: int = 0x2) -> None:
        """RST_STREAM; 0x7 is REFUSED_STREAM, which says that nothing was processed."""
        self.connection.h2.reset_stream(self.number, error_code=code)
        await self.connection.flush()


class H2Connection:
    """The server's end of one connection."""

    def __init__(self, server: H2Server, stream: trio.abc.Stream, number: int) -> None:
        self.server = server
        self.stream = stream
        self.number = number
        self.streams: dict[int, Stream] = {}
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        # What is set here goes out with the first frame; h2 counts streams by it from then on.
        limit = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: server.max_streams}
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=limit)
        self.last_stream: float = math.inf
        """The last stream that is served: after GOAWAY, what lies beyond it is dropped unseen, as the standard has it."""
        self._sending = trio.Lock()

    async def flush(self) -> None:
        async with self._sending:
            data = self.h2.data_to_send()
            if data:
                await self.stream.send_all(data)

    async def goaway(self, last_stream: int | None = None, code: int = 0) -> None:
        """GOAWAY that leaves the connection open: streams up to the last one are still answered."""
        # h2's own close_connection refuses to send anything after it, so the frame is written by hand.
        last = max(self.streams, default=0) if last_stream is None else last_stream
        self.last_stream = last
        payload = last.to_bytes(4, "big") + code.to_bytes(4, "big")
        frame = len(payload).to_bytes(3, "big") + b"\x07\x00" + bytes(4) + payload
        async with self._sending:
            await self.stream.send_all(self.h2.data_to_send() + frame)

    async def limit_streams(self, limit: int) -> None:
        """Lowers or raises SETTINGS_MAX_CONCURRENT_STREAMS while the connection lives."""
        self.h2.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: limit})
        await self.flush()

    async def serve(self) -> None:
        self.h2.initiate_connection()
        await self.flush()
        async with trio.open_nursery() as nursery:
            with contextlib.suppress(h2.exceptions.ProtocolError):  # a client that breaks the rules is cut off
                while data := await self.stream.receive_some(65536):
                    for event in self.h2.receive_data(data):
                        if getattr(event, "stream_id", 0) <= self.last_stream:
                            self._take(event, nursery)
                    await self.flush()
            nursery.cancel_scope.cancel(reason="the client has gone")

    def _take(self, event: h2.events.Event, nursery: trio.Nursery) -> None:
        match event:
            case h2.events.RequestReceived():
                headers = {str(name): str(value) for name, value in event.headers}
                stream = Stream(self, event.stream_id, headers)
                self.streams[stream.number] = stream
                self.server.received.append(stream)
                self.server.most_streams = max(self.server.most_streams, self.h2.open_inbound_streams)
                nursery.start_soon(self._run, stream)
            case h2.events.DataReceived():
                self.streams[event.stream_id].body += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self.streams[event.stream_id].complete.set()
                self.server.wake()
            case h2.events.StreamReset():
                self.server.resets += 1
                self.streams[event.stream_id].cancelled.set()
                self.server.wake()

    async def _run(self, stream: Stream) -> None:
        # A stream that the client has reset, or a client that is gone, ends the script; any other error is the test's.
        gone = (h2.exceptions.StreamClosedError, h2.exceptions.NoSuchStreamError, h2.exceptions.StreamIDTooLowError)
        with contextlib.suppress(*gone, trio.BrokenResourceError, trio.ClosedResourceError):
            await self.server.script(stream)


async def answer(stream: Stream) -> None:
    """Answers with the method, the path and the beginning of the body."""
    await stream.complete.wait()
    await stream.respond(f"{stream.method} {stream.path} ".encode() + bytes(stream.body[:1000]))


class H2Server:
    """Listens on loopback and runs a script for each request.

    Args:
      script: what happens to each request. Default: `answer`.
      tls: a server's SSLContext with ALPN "h2"; None for prior knowledge over TCP.
      max_streams: what the server says it allows at once. Default: 100.
    """

    def __init__(
        self, script: Script | None = None, *, tls: ssl.SSLContext | None = None, max_streams: int = 100
    ) -> None:
        self.script: Script = answer if script is None else script
        self.max_streams = max_streams
        self.received: list[Stream] = []
        self.connections: list[H2Connection] = []
        self.resets = 0
        """RST_STREAM frames that clients sent."""
        self.most_streams = 0
        """The most streams that were open at once on one connection."""
        self.open = 0
        self.port = 0
        self._tls = tls
        self._changed = trio.Event()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}" if self._tls else f"http://127.0.0.1:{self.port}"

    @property
    def accepted(self) -> int:
        return len(self.connections)

    async def start(self, nursery: trio.Nursery) -> H2Server:
        (listener,) = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        await nursery.start(trio.serve_listeners, self._connection, [listener])
        return self

    def wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait(self, condition: Callable[[H2Server], bool]) -> None:
        while not condition(self):
            await self._changed.wait()

    async def _connection(self, tcp: trio.SocketStream) -> None:
        stream: trio.abc.Stream = tcp
        self.open += 1
        try:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                if self._tls is not None:
                    tls = trio.SSLStream(tcp, self._tls, server_side=True, https_compatible=True)
                    await tls.do_handshake()
                    stream = tls
                connection = H2Connection(self, stream, len(self.connections) + 1)
                self.connections.append(connection)
                self.wake()
                await connection.serve()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            tcp.socket.close()
            self.open -= 1
            self.wake()
