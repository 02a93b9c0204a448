"""Server-sent events for the live page: each reader gets all that is known once, and then what changes.

The law of this file:

1. A change is written once, whoever reads it: the readers share the bytes.
2. Nobody waits for a reader. One that has not taken MAX_BEHIND bytes loses what waits for it; it is told so, and gets all that is
   known anew as soon as it reads again. One that takes nothing at all is cut off by the server.
3. What is sent whole is made when it is sent, a few policies at a time: so the reader's own pace bounds the memory, and others
   run in between. How many are a few is measured in numbers, because a long history makes a policy large.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import trio
from starlette.types import Receive, Scope, Send

from ._dashboard_pulse import Pulse

MAX_BEHIND: Final = 1_000_000  # bytes
SLICE: Final = 32  # policies that are read without letting others run
NUMBERS: Final = 6_000  # of their history that are written without letting others run; some 2 ms
SHOWN_LINES: Final = 300
RETRY: Final = b"retry: 1000\n"  # milliseconds after which a browser that lost the stream asks for another


def message(event: str, data: Any) -> bytes:
    """Return one server-sent event."""
    return f"event: {event}\ndata: {to_json(data)}\n\n".encode()


def to_json(data: Any) -> str:
    """Return data as JSON on one line."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class Reader:
    """One stream to one browser: what waits for it."""

    def __init__(self) -> None:
        self.behind = 0
        """How often it has been too slow."""
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._lost = False
        self._wake = trio.Event()

    def put(self, data: bytes) -> None:
        """Add a message, unless it will be told all that is known anyway. Synchronous."""
        if self._lost:
            return
        self._waiting.append(data)
        self._size += len(data)
        if self._size > MAX_BEHIND:
            self._waiting.clear()
            self._size = 0
            self._lost = True
            self.behind += 1
        self._wake.set()

    async def take(self) -> bytes | None:
        """Wait for messages and return them joined; None if some were lost, and all has to be told anew."""
        while not (self._waiting or self._lost):
            self._wake = trio.Event()
            await self._wake.wait()
        if self._lost:
            self._lost = False
            return None
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._size = 0
        return data


class Readers:
    """All the streams that are open.

    Args:
      pulse (Pulse): what is told.
      hello (() -> dict): what a reader is told first.
      most (int): so many may be open at once.
    """

    def __init__(self, pulse: Pulse, hello: Callable[[], Mapping[str, Any]], most: int) -> None:
        self._pulse = pulse
        self._hello = hello
        self._most = most
        self._readers: set[Reader] = set()

    def __len__(self) -> int:
        return len(self._readers)

    @property
    def behind(self) -> int:
        """How often the readers that are open have been too slow."""
        return sum(each.behind for each in self._readers)

    def send(self, event: str, data: Any) -> None:
        """Tell all readers. Synchronous."""
        if self._readers:
            written = message(event, data)
            for reader in self._readers:
                reader.put(written)

    @contextmanager
    def open(self) -> Iterator[Reader | None]:
        """A reader for as long as the block lasts; None if there are too many."""
        if len(self._readers) >= self._most:
            yield None
            return
        reader = Reader()
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)

    def everything(self) -> Iterator[bytes]:
        """Return all that is known as events, a few policies at a time, each as of when it is asked for."""
        yield RETRY + message("hello", self._summary())
        for some in self._slices():
            yield message("whole", self._pulse.whole(some))
        yield message("ready", {})

    def document(self) -> Iterator[bytes]:
        """Return the same as one JSON document, in pieces, each as of when it is asked for."""
        yield to_json(self._summary()).encode().removesuffix(b"}") + b',"policies":['
        between = b""
        for some in self._slices():
            if told := self._pulse.whole(some):
                yield between + to_json(told).encode()[1:-1]
                between = b","
        yield b"]}"

    def _summary(self) -> dict[str, Any]:
        return {**self._hello(), **self._pulse.summary(SHOWN_LINES)}

    def _slices(self) -> Iterator[list[int]]:
        ids, size = self._pulse.ids(), max(1, min(SLICE, NUMBERS // self._pulse.history))
        return (ids[start : start + size] for start in range(0, len(ids), size))


class EventStream:
    """The ASGI response to `/events`."""

    def __init__(self, readers: Readers, reader: Reader) -> None:
        self._readers = readers
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the browser is gone, or this is cancelled."""
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, receive, nursery.cancel_scope)
            await self._tell_everything(send)
            while True:
                data = await self._reader.take()
                if data is None:
                    await self._write(send, message("behind", {"times": self._reader.behind}))
                    await self._tell_everything(send)
                else:
                    await self._write(send, data)

    async def _watch(self, receive: Receive, scope: trio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel(reason="the browser is gone")

    async def _tell_everything(self, send: Send) -> None:
        for piece in self._readers.everything():
            await self._write(send, piece)

    async def _write(self, send: Send, data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})
        await trio.lowlevel.checkpoint()  # sending need not be one, and what comes next may be large


class Document:
    """The ASGI response to `/api/state`: written piece by piece, so that the other tasks run in between."""

    def __init__(self, readers: Readers, *, is_head: bool) -> None:
        self._readers = readers
        self._is_head = is_head

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        for piece in () if self._is_head else self._readers.document():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await trio.lowlevel.checkpoint()
        await send({"type": "http.response.body", "body": b""})
