"""The stream under an HTTP/2 connection, which belongs to many requests.

* What one request may wait for must not end the others, so reads pay no heed to a timeout: each request keeps its own time.
* Writes are whole (see Wire).
* GOAWAY frames are taken out of what the engine reads. It would end every stream at once, those too that the peer said it would
  still answer; the pool ends the others, sends them again elsewhere, and gives the connection nothing new.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import trio
from trio.lowlevel import Task, current_task

from ._wires import NetworkStream, Wire

_HEADER: Final = 9
_GOAWAY: Final = 7
_LAST_ID: Final = 0x7FFFFFFF

PATIENCE: Final = 0.1
"""Seconds for the rest of a TLS record of which the beginning has come."""


class SharedStream(NetworkStream):
    """A stream of a connection that many requests share."""

    def __init__(self, stream: trio.abc.Stream, wire: Wire) -> None:
        super().__init__(stream, wire)
        wire.whole_writes = True
        self.watches: dict[Task, Any] = {}  # of requests that are on their way; each keeps its time
        self.on_goaway: Callable[[int], object] | None = None
        self._frames = Frames()
        self._ahead = b""
        self._ended = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """Return bytes as they come, without GOAWAY frames; b"" at the end."""
        ahead, self._ahead = self._ahead, b""
        if ahead or self._ended:
            return ahead
        while True:
            data = await super().read(max_bytes)
            kept = self._sift(data)
            if kept or not data:
                return kept

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Send all of the buffer."""
        if buffer and (watch := self.watches.get(current_task())) is not None:
            watch.touch()
        await super().write(buffer, timeout)

    async def look(self) -> bool:
        """Take in what has come while nobody read, without waiting for more; tell whether the connection is still open."""
        try:
            with trio.move_on_after(PATIENCE):
                while not self._ended and self.wire.is_readable():
                    data = await super().read(2**16)
                    self._ended = not data
                    self._ahead += self._sift(data)
        except self._core.ReadError:
            self._ended = True
        return not self._ended

    def _sift(self, data: bytes) -> bytes:
        kept, goaways = self._frames.sift(data)
        for last_stream in goaways:
            if self.on_goaway is not None:
                self.on_goaway(last_stream)
        return kept


class Frames:
    """Follows the frames of a byte stream, and takes the GOAWAYs out."""

    __slots__ = ("_goaway", "_header", "_left")

    def __init__(self) -> None:
        self._header = b""  # of a frame, as far as it is there
        self._left = 0  # bytes of the frame's payload that are to come
        self._goaway: bytes | None = None  # its payload so far

    def sift(self, data: bytes) -> tuple[bytes, list[int]]:
        """Return what is left for the engine, and the last stream that each GOAWAY names."""
        kept: list[bytes] = []
        goaways: list[int] = []
        at = 0
        while at < len(data) or (self._left == 0 and self._goaway is not None):
            if self._left or self._goaway is not None:
                part = data[at : at + self._left]
                at += len(part)
                self._left -= len(part)
                if self._goaway is None:
                    kept.append(part)
                    continue
                self._goaway += part
                if self._left == 0:
                    goaways.append(int.from_bytes(self._goaway[:4], "big") & _LAST_ID)
                    self._goaway = None
                continue
            part = data[at : at + _HEADER - len(self._header)]
            at += len(part)
            self._header += part
            if len(self._header) == _HEADER:
                self._left = int.from_bytes(self._header[:3], "big")
                if self._header[3] == _GOAWAY:
                    self._goaway = b""
                else:
                    kept.append(self._header)
                self._header = b""
        return b"".join(kept), goaways
