"""HTTP/2 over one stream, for many tasks at once: frames by h2, waiting by Trio.

The core libraries' own HTTP/2 connection was the first choice. It was given up because one request can hurt another there: the
one that holds its read lock sleeps on while an event for another lies ready; a lowered limit of streams waits for streams that
wait for it; a read timeout or a GOAWAY fails every stream; a stream that is given up is never reset; and it stays at one stream
if the peer names no limit. None of it can be mended from outside. This class has that one's interface, as far as it is used.

The law:

* Whatever h2 has counted is sent: between a call of h2 that makes frames and their place in h2's buffer nothing waits, the buffer
  is sent in order under one lock, and a write is whole.
* One of the waiting tasks reads for all, and hands that on when it has what it wants, or leaves. A task is woken when something
  came for it, and by nothing else but that hand-over.
* An error of one stream stays with it. An error of the connection is kept, and each stream raises a new one of its kind.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import trio
from trio.lowlevel import Abort, RaiseCancelT, Task, current_task, reschedule, wait_task_rescheduled

from ._frames import Frames
from ._trace import traced
from ._wires import GRACE

MOST_STREAMS: Final = 500
"""Streams on one connection at most, if the peer allows more."""
STREAM_WINDOW: Final = 2**22
"""Bytes of a body that the peer may send unasked."""
CONNECTION_WINDOW: Final = 2**31 - 1
"""The same for all bodies of a connection: the windows of all its streams fit, so bodies that nobody reads starve no other."""
_INITIAL_WINDOW: Final = 2**16 - 1
PATIENCE: Final = 0.1
"""Seconds for the rest of a TLS record of which the beginning has come."""
SILENCE: Final = 1.0
"""Seconds with no word on the connection after which a request that is given up makes it suspect; a read time-out always does."""
CANCEL: Final = 8
_HIDDEN: Final = (b"host", b"transfer-encoding", b"connection", b"keep-alive", b"proxy-connection", b"upgrade")
_CONFIG: Final = h2.config.H2Configuration(validate_inbound_headers=False)


class Stream:
    """One exchange."""

    __slots__ = ("began_at", "chunks", "ended", "error", "gone", "head", "number", "task", "timeouts")

    def __init__(self, number: int, timeouts: Any) -> None:
        self.number = number
        self.timeouts = timeouts
        self.began_at = trio.current_time()
        self.head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self.chunks: deque[tuple[bytes, int]] = deque()  # with what each counts in the windows
        self.ended = False
        self.error: Exception | None = None
        self.gone = False  # it is in no books any more
        self.task: Task | None = None


class Answer:
    """What a request got: the interface of the core's Response, as far as the pool uses it."""

    __slots__ = ("extensions", "headers", "status", "stream")

    def __init__(self, connection: HTTP2Connection, stream: Stream, network_stream: Any) -> None:
        assert stream.head is not None
        self.status, self.headers = stream.head
        self.stream = BodyStream(connection, stream)
        self.extensions = {"http_version": b"HTTP/2", "network_stream": network_stream, "stream_id": stream.number}


class BodyStream:
    """The body of a response."""

    __slots__ = ("_connection", "_stream")

    def __init__(self, connection: HTTP2Connection, stream: Stream) -> None:
        self._connection = connection
        self._stream = stream

    def __aiter__(self) -> BodyStream:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._connection.next_chunk(self._stream)
        except BaseException:
            await self.aclose()
            raise
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """End the stream: reset it, if it isn't at its end."""
        await self._connection.end(self._stream)


class HTTP2Connection:
    """A connection that carries many exchanges.

    Args:
      core: the core library, for its errors.
      stream: what it is spoken over.
    """

    def __init__(self, core: Any, stream: Any) -> None:
        self._core = core
        self._network = stream
        # Told how many streams the peer allows, whenever it says something about it, and when it wants no new ones.
        self.on_settings: Callable[[int], object] = _nobody
        self.on_goaway: Callable[[], object] = _nobody
        self._h2 = h2.connection.H2Connection(config=_CONFIG)
        self._streams: dict[int, Stream] = {}
        self._writing = trio.Lock()
        self._parked: OrderedDict[Stream, None] = OrderedDict()
        self._reading = False
        self._started = False
        self._failure: Exception | None = None
        self._last_stream: int | None = None  # of a GOAWAY
        self._silent = False  # a request waited long, and nothing came for any: it may be dead
        self._limit = MOST_STREAMS
        self._frames = Frames()
        self.heard_at = trio.current_time()

    def is_available(self) -> bool:
        """Tell whether it takes new streams."""
        return self._failure is None and self._last_stream is None and not self._silent

    async def aclose(self) -> None:
        """Close it; never waits."""
        self._network.close_now()

    # -- an exchange -----------------------------------------------------------------------------------------------------

    async def handle_async_request(self, request: Any, lease: Any) -> Answer:
        """Send a request, and return the answer once its head is there."""
        stream = self._open(request)
        lease.stream = stream
        trace = request.extensions.get("trace")
        details = {"request": request, "stream_id": stream.number}
        try:
            try:
                headers_sent = self._flush(stream.timeouts.get("write"))
                await traced(trace, "http2.send_request_headers", details, headers_sent)
                await traced(trace, "http2.send_request_body", details, self._send_body(stream, request))
            except self._core.WriteError:
                pass  # the peer may have said why before it closed
            head = self._wait(stream, lambda: stream.head is not None)
            await traced(trace, "http2.receive_response_headers", details, head)
            return Answer(self, stream, self._network)
        except BaseException:
            await self.end(stream)
            raise

    async def _send_body(self, stream: Stream, request: Any) -> None:
        if not _has_body(request):
            return
        try:
            async for chunk in request.stream:
                await self._upload(stream, chunk)
                if stream.ended:
                    return  # it was answered without the rest
            self._h2.end_stream(stream.number)
        except h2.exceptions.ProtocolError as exc:
            if stream.error is None and self._failure is None:
                raise self._core.LocalProtocolError(str(exc)) from exc
        await self._flush(stream.timeouts.get("write"))

    def _open(self, request: Any) -> Stream:
        """Begin a stream: from here on the request may reach the peer."""
        if not self.is_available():
            raise self._core.ConnectionNotAvailable("the connection takes no new streams")
        if not self._started:
            self._start()
        try:
            number = self._h2.get_next_available_stream_id()
            headers = _headers(request, self._core)
            self._h2.send_headers(number, headers, end_stream=not _has_body(request))
            self._h2.increment_flow_control_window(STREAM_WINDOW - _INITIAL_WINDOW, stream_id=number)
        except (h2.exceptions.NoAvailableStreamIDError, h2.exceptions.TooManyStreamsError) as exc:
            self._last_stream = 2**31 if isinstance(exc, h2.exceptions.NoAvailableStreamIDError) else None
            raise self._core.ConnectionNotAvailable(str(exc)) from exc
        except h2.exceptions.ProtocolError as exc:
            raise self._core.LocalProtocolError(str(exc)) from exc
        stream = self._streams[number] = Stream(number, request.extensions.get("timeout", {}))
        return stream

    def _start(self) -> None:
        self._started = True
        codes = h2.settings.SettingCodes
        initial = {codes.ENABLE_PUSH: 0, codes.MAX_CONCURRENT_STREAMS: 100, codes.MAX_HEADER_LIST_SIZE: 2**16}
        self._h2.local_settings = h2.settings.Settings(client=True, initial_values=initial)
        del self._h2.local_settings[codes.ENABLE_CONNECT_PROTOCOL]  # some servers refuse what they don't know
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW - _INITIAL_WINDOW)

    async def _upload(self, stream: Stream, data: bytes) -> None:
        number, at = stream.number, 0
        while at < len(data):
            await self._wait(stream, lambda: stream.ended or self._h2.local_flow_control_window(number) > 0)
            if stream.ended:
                return
            room = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)
            self._h2.send_data(number, data[at : at + room])
            at += room
            await self._flush(stream.timeouts.get("write"))

    async def next_chunk(self, stream: Stream) -> bytes | None:
        """Return the next bytes of a body; None at its end."""
        await self._wait(stream, lambda: bool(stream.chunks) or stream.ended)
        if not stream.chunks:
            return None
        chunk, weight = stream.chunks.popleft()
        self._acknowledge(stream, weight)
        await self._send_owed()
        return chunk

    async def end(self, stream: Stream) -> None:
        """End a stream, and let the peer know if it doesn't yet."""
        if self.abandon(stream):
            with trio.move_on_after(GRACE, shield=True):
                await self._send_owed()

    def abandon(self, stream: Stream) -> bool:
        """End a stream, and tell whether there is something that the peer should know; it does after the next write."""
        if stream.gone:
            return False
        stream.gone = True
        del self._streams[stream.number]
        if self._failure is not None:
            return False
        if trio.current_time() >= stream.began_at + SILENCE:
            self._distrust(stream.began_at)
        known = self._h2.streams.get(stream.number)
        try:
            if known is not None and not known.closed:
                self._h2.reset_stream(stream.number, CANCEL)
            elif not stream.chunks:
                return False
            for _, weight in stream.chunks:  # its share of the connection's window
                self._acknowledge(stream, weight)
        except h2.exceptions.ProtocolError:
            return False
        return True

    def _acknowledge(self, stream: Stream, weight: int) -> None:
        if weight and self._failure is None:
            self._h2.acknowledge_received_data(weight, stream.number)

    # -- waiting ---------------------------------------------------------------------------------------------------------

    async def _wait(self, stream: Stream, is_there: Callable[[], bool]) -> None:
        """Wait until something is there for a stream, as long as its request's read timeout lets it."""
        if is_there():
            return
        seconds = stream.timeouts.get("read")
        if seconds is None:
            await self._take_turns(stream, is_there)
            return
        started = trio.current_time()
        with trio.CancelScope(deadline=started + seconds):
            await self._take_turns(stream, is_there)
            return
        self._distrust(started)
        raise self._core.ReadTimeout(f"nothing came within {seconds:g} s")

    def _distrust(self, instant: float) -> None:
        """Take no new streams if nothing came since an instant: those that are there go on."""
        if self.heard_at <= instant and not self._network.is_readable():
            self._silent = True

    async def _take_turns(self, stream: Stream, is_there: Callable[[], bool]) -> None:
        while not self._is_over(stream, is_there):
            if self._reading:
                await self._park(stream)
                continue
            self._reading = True
            try:
                while not self._is_over(stream, is_there):
                    await self._read()
            finally:
                self._reading = False
                if self._parked:
                    self._wake(next(iter(self._parked)))

    def _is_over(self, stream: Stream, is_there: Callable[[], bool]) -> bool:
        if is_there():
            return True
        if stream.error is not None:
            raise stream.error
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args) from self._failure
        return False

    async def _park(self, stream: Stream) -> None:
        stream.task = current_task()
        self._parked[stream] = None

        def abort(_raise_cancel: RaiseCancelT) -> Abort:
            del self._parked[stream]
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)

    def _wake(self, stream: Stream) -> None:
        if stream in self._parked:
            del self._parked[stream]
            assert stream.task is not None
            reschedule(stream.task)

    def _wake_all(self) -> None:
        for stream in tuple(self._parked):
            self._wake(stream)

    # -- reading and writing ---------------------------------------------------------------------------------------------

    async def look(self) -> bool:
        """Take in what has come while nobody read, without waiting for more; tell whether it takes new streams."""
        with trio.move_on_after(PATIENCE):
            while self._failure is None and self._network.is_readable():
                await self._read()
        return self.is_available()

    async def _read(self) -> None:
        try:
            data = await self._network.read(2**16)
            if not data:
                raise self._core.RemoteProtocolError("Server disconnected")
            self.heard_at = trio.current_time()
            kept, goaways = self._frames.sift(data)
            for event in self._h2.receive_data(kept) if kept else ():
                self._take(event)
            for last_stream in goaways:
                self._goes_away(last_stream)
        except (h2.exceptions.ProtocolError, ValueError) as exc:
            self._fail(self._core.RemoteProtocolError(str(exc)))
        except (self._core.ReadError, self._core.RemoteProtocolError) as exc:
            self._fail(exc)
            return
        await self._send_owed()

    def _take(self, event: Any) -> None:
        stream = self._streams.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self._take_settings(event)
        elif isinstance(event, h2.events.WindowUpdated) and not event.stream_id:
            self._wake_all()
        elif isinstance(event, h2.events.DataReceived) and stream is None:
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif stream is not None:
            self._take_for(stream, event)
            self._wake(stream)

    def _take_for(self, stream: Stream, event: Any) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            stream.head = _parse_head(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            stream.chunks.append((event.data, event.flow_controlled_length))
        elif isinstance(event, h2.events.StreamEnded):
            stream.ended = True
        elif isinstance(event, h2.events.StreamReset):
            if event.error_code == 0 and stream.head is not None and stream.ended:
                return  # answered whole; the peer only wants no more of the request
            stream.error = self._core.RemoteProtocolError(event)

    def _take_settings(self, event: Any) -> None:
        change = event.changed_settings.get(h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS)
        if change is not None:
            self._limit = min(change.new_value, MOST_STREAMS)
        self.on_settings(self._limit)
        self._wake_all()  # the windows may be others now

    def _goes_away(self, last_stream: int) -> None:
        """Take in a GOAWAY: the peer answers the streams up to the last that it names, and has not begun with any other."""
        self._last_stream = last_stream
        for stream in tuple(self._streams.values()):
            if stream.number > last_stream and stream.head is None:
                stream.error = self._core.ConnectionNotAvailable(
                    "the server goes away, and has not begun with this request"
                )
                self._wake(stream)
        self.on_goaway()

    def _fail(self, exc: Exception) -> None:
        if self._failure is None:
            self._failure = exc
        self._wake_all()

    async def _send_owed(self) -> None:
        """Send what is owed to the peer; a writer that waits for the peer sends it too, so nobody waits for that writer."""
        if self._writing.locked():
            await trio.lowlevel.checkpoint()
            return
        with suppress(self._core.WriteError):  # the next read tells
            await self._flush(None)

    async def _flush(self, seconds: float | None) -> None:
        """Send what h2 has made, and what it makes meanwhile."""
        async with self._writing:
            while data := self._h2.data_to_send():
                try:
                    await self._network.write_whole(data, seconds)
                except self._core.WriteError:
                    raise  # what the peer sent before is still to be read
                except BaseException as exc:
                    self._network.close_now()  # a part of it may be sent
                    if isinstance(exc, Exception):
                        self._fail(exc)
                    raise


def _has_body(request: Any) -> bool:
    return any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in request.headers)


def _headers(request: Any, core: Any) -> list[tuple[bytes, bytes]]:
    headers = [(name.lower(), value) for name, value in request.headers]
    authority = next((value for name, value in headers if name == b"host"), None)
    if authority is None:
        raise core.LocalProtocolError("Missing mandatory Host: header")
    url = request.url
    own = [(b":method", request.method), (b":authority", authority), (b":scheme", url.scheme), (b":path", url.target)]
    return own + [item for item in headers if item[0] not in _HIDDEN]


def _parse_head(headers: Any) -> tuple[int, list[tuple[bytes, bytes]]]:
    """Return the status and the headers; a ValueError for what no answer may have (RFC 9113, section 8.2.1)."""
    status, rest = None, []
    for name, value in headers:
        if b"\n" in value or b"\r" in value or b"\0" in value:
            raise ValueError(f"a line break in the header {name!r}")
        if name == b":status":
            status = int(value)
        elif not name.startswith(b":"):
            rest.append((name, value))
    if status is None:
        raise ValueError("an answer without :status")
    return status, rest


def _nobody(*_: object) -> None:
    pass
