"""Bodies: an answer's that still holds a permit, a request's that must be known to be unread, and closing in good time."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import trio
from trio import CancelScope, current_time
from trio.lowlevel import current_trio_token, enable_ki_protection

from .._policies.bulkhead import Bulkhead
from ._library import Library
from ._origin_policies import Origin

MAX_DRAIN_BYTES: Final = 64 * 1024
MAX_DRAIN_SECONDS: Final = 1.0
MAX_CLOSE_SECONDS: Final = 1.0


class HeldBody:
    """An answer's body that holds something until it is closed, and may have a deadline.

    Closing gives back at once what is held, in the step in which the body is closed, however that ends. A body that nobody
    closed gives it back when it is collected, in the run that it belongs to.
    """

    def __init__(
        self,
        stream: Any,
        name: str,
        origin: Origin,
        *,
        permit: tuple[Bulkhead, Any] | None,
        leave: Callable[[], object] | None,
        deadline: float,
        timed_out: Callable[[], Exception],
    ) -> None:
        self._stream = stream
        self._name = name
        self._origin = origin  # so that it is remembered while this holds a permit of its bulkhead
        self._permit = permit
        self._leave = leave
        self._deadline = deadline
        self._timed_out = timed_out
        self._token = current_trio_token()

    def __aiter__(self) -> AsyncIterator[bytes]:
        chunks: AsyncIterator[bytes] = self._stream.__aiter__()
        return chunks if self._deadline == math.inf else _Timed(chunks, self._deadline, self._timed_out)

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._let_go()

    @enable_ki_protection
    def _let_go(self) -> None:
        permit, leave = self._permit, self._leave
        self._permit = self._leave = None
        if permit is not None:
            bulkhead, held = permit
            bulkhead._give_back(held)
        if leave is not None:
            leave()

    def __del__(self) -> None:
        if self._permit is None and self._leave is None:
            return
        try:
            self._let_go_in_its_run()
        finally:
            warnings.warn(
                f"{self._name} ({self._origin.name}): an answer was never closed: "
                "read it whole, or use `async with client.stream(...)`",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def _let_go_in_its_run(self) -> None:
        """Give back in a step of its own: the collector may have come in the middle of another one, and in any thread."""
        try:
            self._token.run_sync_soon(self._let_go)
        except trio.RunFinishedError:
            self._let_go()


@functools.cache
def held_body_class(library: Library) -> Any:
    """Return the HeldBody that is a stream of a client library."""
    return type("HeldBody", (HeldBody, library.client.AsyncByteStream), {})


@functools.cache
def watched_body_class(library: Library) -> Any:
    """Return the WatchedBody that is a stream of a client library."""
    return type("WatchedBody", (WatchedBody, library.client.AsyncByteStream), {})


class _Timed:
    """Iterates over a body's chunks until a deadline."""

    __slots__ = ("_chunks", "_deadline", "_timed_out")

    def __init__(self, chunks: AsyncIterator[bytes], deadline: float, timed_out: Callable[[], Exception]) -> None:
        self._chunks = chunks
        self._deadline = deadline
        self._timed_out = timed_out

    def __aiter__(self) -> _Timed:
        return self

    async def __anext__(self) -> bytes:
        with CancelScope(deadline=self._deadline):
            return await self._chunks.__anext__()
        raise self._timed_out()

    async def aclose(self) -> None:
        await close_iterator(self._chunks)


class WatchedBody:
    """A request's body that remembers whether somebody has begun to read it."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.begun = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun = True
        return self.stream.__aiter__()  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        await self.stream.aclose()


def is_form_of_bytes(stream: Any) -> bool:
    """Tell whether a request's body is a multipart form without files that are read from, which renders anew each time."""
    fields = getattr(stream, "fields", None)
    return isinstance(fields, list) and all(isinstance(getattr(each, "file", b""), (bytes, str)) for each in fields)


async def drain(response: Any, method: str, deadline: float) -> bytes | None:
    """Read an answer's body to its end; None if that is too long, comes too slowly or breaks.

    Cancellation: passes; the response is not closed here.
    """
    if _says_too_long(response, method):
        return None
    with CancelScope(deadline=min(deadline, current_time() + MAX_DRAIN_SECONDS)):
        chunks = response.stream.__aiter__()
        try:
            return await _joined(chunks)
        except Exception:
            return None
        finally:
            await close_iterator(chunks)
    return None


def _says_too_long(response: Any, method: str) -> bool:
    """Tell whether an answer declares a body that need not be begun; the length in an answer to HEAD is of no body."""
    declared = response.headers.get("content-length", "")
    return method != "HEAD" and declared.isdecimal() and (len(declared) > 9 or int(declared) > MAX_DRAIN_BYTES)


async def _joined(chunks: AsyncIterator[bytes]) -> bytes | None:
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > MAX_DRAIN_BYTES:
            return None
    return bytes(body)


async def close_iterator(chunks: Any) -> None:
    """End an iteration that may be broken off half-way."""
    aclose = getattr(chunks, "aclose", None)
    if aclose is not None:
        await aclose()


async def close(response: Any) -> None:
    """Close an answer: shielded, but not for long; what goes wrong in it is of no interest."""
    with CancelScope(deadline=current_time() + MAX_CLOSE_SECONDS, shield=True):
        try:
            await response.aclose()
        except Exception:
            return
