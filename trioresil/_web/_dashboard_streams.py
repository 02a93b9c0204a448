"""Server-sent events for the live page: each reader gets all that is known once, and then what changes.

The law of this file:

1. A change is written once, whoever reads it: the readers share the bytes.
2. Nobody waits for a reader. One that has not taken MAX_BEHIND bytes loses what waits for it; it is told so, and gets all that is
   known anew as soon as it reads again. One that takes nothing at all for MAX_STALL seconds is cut off.
3. What is sent whole is made when it is sent, a few policies at a time, so the reader's own pace bounds the memory.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import trio
from starlette.types import Receive, Scope, Send

from ._dashboard_pulse import Pulse

MAX_BEHIND: Final = 1_000_000  # bytes
MAX_STALL: Final = 30.0  # seconds
MAX_READERS: Final = 100
SLICE: Final = 32  # policies that are read, or written, without letting others run
SHOWN_LINES: Final = 300


def message(event: str, data: Any) -> bytes:
    """Return one server-sent event."""
    return f"event: {event}\ndata: {to_json(data)}\n\n".encode()


def to_json(data: Any) -> str:
    """Return data as JSON on one line."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class Reader:
    """One stream to one browser: what waits for it."""

    def __init__(self, peer: Any) -> None:
        self.peer = peer
        self.sending_since = math.inf
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
      cut_off ((peer) -> object): closes the connection of a reader that takes nothing.
    """

    def __init__(self, pulse: Pulse, hello: Callable[[], Mapping[str, Any]], cut_off: Callable[[Any], object]) -> None:
        self._pulse = pulse
        self._hello = hello
        self._cut_off = cut_off
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

    def drop_stalled(self, now: float) -> None:
        """Cut off those that take nothing."""
        for reader in self._readers:
            if now - reader.sending_since > MAX_STALL:
                reader.sending_since = math.inf
                self._cut_off(reader.peer)

    @contextmanager
    def open(self, peer: Any) -> Iterator[Reader | None]:
        """A reader for as long as the block lasts; None if there are too many."""
        if len(self._readers) >= MAX_READERS:
            yield None
            return
        reader = Reader(peer)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)

    def everything(self) -> Iterator[bytes]:
        """Return all that is known, a few policies at a time, each as of when it is asked for."""
        yield message("hello", {**self._hello(), **self._pulse.summary(SHOWN_LINES)})
        ids = self._pulse.ids()
        for start in range(0, len(ids), SLICE):
            yield message("whole", self._pulse.whole(ids[start : start + SLICE]))
        yield message("ready", {})


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
        self._reader.sending_since = trio.current_time()
        try:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        finally:
            self._reader.sending_since = math.inf
