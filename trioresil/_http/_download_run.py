"""One call of `download`, from its first request to the commit.

The law of this file:

1. The part on disk is the only state: whatever happens, the next request asks for what comes behind it.
2. An attempt that brought the download further than it ever was is a success to the Retry: the count begins afresh with the
   failure that ended it. So attempts are bounded without progress, and the file's length bounds the progress.
3. Errors of this side (the disk, the progress function) come out at once, whatever the Retry's `on` would say of them.
4. The commit is the last step and runs to its end: what raises has put nothing at the target path.
"""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import attrs
import trio

from .._notes import raise_again
from .._policies.retry import Retry
from ._library import Library
from ._part_file import PartFile, source_of
from ._ranges import Complete, Plan, StartOver, Unusable, judge, wish

CHUNK_BYTES: Final = 256 * 1024
"""What is collected before it is written: a hop to a thread costs as much as writing this."""
HOLD_SECONDS: Final = 1.0
"""How long bytes of a slow body are kept unwritten."""

T = TypeVar("T")
Progress: TypeAlias = Callable[[int, int | None], object]


@attrs.frozen(kw_only=True)
class DownloadReport:
    """How a download went."""

    path: pathlib.Path
    """Where the file is."""
    total_bytes: int
    """Its length."""
    kept_bytes: int
    """How many bytes of it were there before, from a download that had broken off."""
    requests: int
    """Requests made, redirects not counted."""
    resumed: int
    """How many of them went on where another had broken off."""
    seconds: float
    """How long it took, in seconds."""


@attrs.define(kw_only=True, eq=False)
class DownloadRun:
    """One call of download."""

    library: Library
    client: Any
    url: Any
    part: PartFile
    progress: Progress | None
    digest: tuple[str, str] | None
    retry: Retry
    headers: dict[str, str]
    options: dict[str, Any]
    source: str = ""
    requests: int = 0
    resumed: int = 0
    patched: bool = False  # whether what is held came by more than one answer
    furthest: int = 0
    kept: int = 0
    reported: tuple[int, int | None] | None = None
    total: int | None = None
    ours: Exception | None = None  # an error that is not the other side's

    async def run(self) -> DownloadReport:
        began = trio.current_time()
        self.source = source_of(str(self.client.build_request("GET", self.url).url))
        await _in_thread(self.part.open, self.source)
        try:
            self.kept = self.furthest = size = self.part.size
            self.patched = size > 0
            await self._complete()
            size = self.part.size
            if self.progress is not None and self.reported != (size, size):
                self.progress(size, size)
            await _in_thread(self.part.commit)
        finally:
            with trio.CancelScope(shield=True):
                await _in_thread(self.part.close)
        return DownloadReport(
            path=pathlib.Path(self.part.target),
            total_bytes=size,
            kept_bytes=self.kept,
            requests=self.requests,
            resumed=self.resumed,
            seconds=trio.current_time() - began,
        )

    async def _complete(self) -> None:
        """Have all of the file in the part, and what it should be."""
        await self._get_all()
        found = await self._digest()
        if found is None:
            return
        if self.patched:  # what was held may have been spoilt long ago: once more, from the start
            await _in_thread(self.part.empty)
            await self._get_all()
            found = await self._digest()
        if found is not None:
            assert self.digest is not None
            await _in_thread(self.part.empty)
            algorithm, wanted = self.digest
            raise self.library.client.DecodingError(
                f"the file at {self.part.target!r} should have {algorithm}:{wanted}, and what came has {algorithm}:{found}",
                request=self.client.build_request("GET", self.url),
            )

    async def _digest(self) -> str | None:
        """Return the digest of the part, or None if it is as it should be."""
        if self.digest is None:
            return None
        algorithm, wanted = self.digest
        digest, position = hashlib.new(algorithm), 0
        while position < self.part.size:
            position += await _in_thread(self.part.feed, digest, position)
        found = digest.hexdigest()
        return None if found == wanted else found

    # --- attempts ------------------------------------------------------------------------------------------------------

    async def _get_all(self) -> None:
        failure: Exception | None = None
        error: Exception | None = None
        try:
            while True:
                async for attempt in self.retry:
                    with attempt:
                        if failure is not None:  # counts as the first attempt of this round
                            error, failure = failure, None
                            raise_again(error)
                        held = self.furthest
                        try:
                            return await self._attempt()
                        except Exception as exc:
                            if exc is not self.ours and self.furthest <= held:
                                raise
                            failure = exc
                    if failure is not None:
                        break
                if self.ours is not None:
                    raise_again(self.ours)
        finally:
            error = failure = self.ours = None  # their tracebacks hold this frame

    async def _attempt(self) -> None:
        """Ask for what is missing until all is there."""
        while not isinstance(outcome := await self._exchange(), Complete):
            if isinstance(outcome, StartOver):  # once at most: the next request asks for all
                await self._local(self.part.empty)

    async def _exchange(self) -> Complete | StartOver | None:
        """Make one request. None: a part has come, and there is more."""
        asked = wish(self.part.version, self.part.size)
        headers = {**self.headers, "Accept-Encoding": "identity", **asked.headers}
        self.requests += 1
        async with self.client.stream("GET", self.url, headers=headers, **self.options) as response:
            if response.status_code != 416:
                response.raise_for_status()
            plan = judge(response.status_code, response.headers, asked, self.part.version, self.source)
            if isinstance(plan, Unusable):
                raise self.library.client.HTTPStatusError(plan.why, request=response.request, response=response)
            if not isinstance(plan, Plan):
                return plan
            if plan.begin is not None:
                self.kept = 0
                await self._local(self.part.begin, plan.begin)
            else:
                self.resumed += 1
            self.patched = plan.begin is None
            self.total = plan.total
            await self._receive(response, plan, asked.skipped if plan.begin is None else 0)
        # A part whose whole has no known length may be the last: the next answer tells.
        ended = plan.end == plan.total
        return Complete() if ended else None

    async def _receive(self, response: Any, plan: Plan, skipped: int) -> None:
        buffer = bytearray()
        written_at = trio.current_time()
        pieces = _read_before(response) if response.is_stream_consumed else response.aiter_raw()
        try:
            async for piece in pieces:
                buffer += piece[skipped:]
                skipped = max(0, skipped - len(piece))
                if plan.end is not None and self.part.size + len(buffer) > plan.end:
                    buffer.clear()
                    raise self._protocol_error(f"the body goes on behind byte {plan.end}, where it should end")
                now = trio.current_time()
                if len(buffer) >= CHUNK_BYTES or now - written_at >= HOLD_SECONDS:
                    written_at = now
                    await self._write(buffer)
            await self._write(buffer)
        except BaseException as exc:
            await self._save(buffer, exc)
            await _end(pieces)
            raise
        if plan.end is not None and self.part.size < plan.end:
            raise self._protocol_error(f"the body ended at byte {self.part.size}; it should end at byte {plan.end}")

    async def _write(self, buffer: bytearray) -> None:
        if not buffer:
            return
        data = bytes(buffer)
        buffer.clear()
        await self._local(self.part.write, data)
        self.furthest = max(self.furthest, self.part.size)
        if self.progress is not None:
            self.reported = (self.part.size, self.total)
            try:
                self.progress(*self.reported)
            except Exception as exc:
                self.ours = exc
                raise

    async def _save(self, buffer: bytearray, exc: BaseException) -> None:
        """Keep what came before an error. The error is what comes out, unless it is one that would be retried."""
        if not buffer:
            return
        with trio.CancelScope(shield=True):
            try:
                await self._local(self.part.write, bytes(buffer))
            except OSError:
                if isinstance(exc, Exception):
                    raise
        self.furthest = max(self.furthest, self.part.size)

    async def _local(self, fn: Callable[..., T], *args: Any) -> T:
        try:
            return await _in_thread(fn, *args)
        except Exception as exc:
            self.ours = exc
            raise

    def _protocol_error(self, message: str) -> Exception:
        error: Exception = self.library.client.RemoteProtocolError(
            message, request=self.client.build_request("GET", self.url)
        )
        return error


async def _read_before(response: Any) -> AsyncIterator[bytes]:
    """Give the body of a response that an event hook has read."""
    yield response.content


async def _end(pieces: AsyncIterator[bytes]) -> None:
    """Leave the client library's generators, which stand in each other, by a cancellation.

    To close the outermost would leave the others to the garbage collector.
    """
    with trio.CancelScope() as scope:
        scope.cancel(reason="the rest of this body is not wanted")
        with suppress(Exception):
            async for _ in pieces:
                pass


async def _in_thread(fn: Callable[..., T], *args: Any) -> T:
    """Run to its end, or not at all if cancelled before."""
    return await trio.to_thread.run_sync(partial(fn, *args))
