"""The body of a response: iterated as the engine gives it, and the one place where a finished request gives its lease back.

It is a class and no async generator, because a generator that is broken off runs its clean-up when the garbage collector comes
by, in a task of nobody's. The engine's own generators under it are run to their end inside a cancelled scope when a body is
closed half-way: they can read what is there already, and nothing else. So a small body that has arrived and was not read keeps
its connection, and any other ends there.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from ._leases import Lease
    from ._ledger import Ledger


class Body:
    """An engine's response stream, with a lease; made an AsyncByteStream of the client library by a subclass."""

    def __init__(
        self,
        stream: Any,
        lease: Lease,
        ledger: Ledger,
        engine: Any,
    ) -> None:
        self._stream = stream
        self._lease = lease
        self._ledger = ledger
        self._engine = engine
        self._iterator: AsyncIterator[bytes] | None = None
        self._ended = False
        self._closed = False
        self._busy = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._iterator is None:
            self._iterator = self._stream.__aiter__()
        self._busy = True
        try:
            return await self._iterator.__anext__()
        except StopAsyncIteration:
            self._ended = True
            raise
        except Exception as exc:
            self._ledger.leave(self._lease, "discarded")
            error = self._engine.translated(exc)
            if error is None:
                raise
            try:
                raise error from exc
            finally:
                del error  # its traceback holds this frame
        except BaseException:
            self._ledger.leave(self._lease, "discarded")
            raise
        finally:
            self._busy = False

    async def aclose(self) -> None:
        """Give the connection back: for the next request if the body has been read, or has arrived; else it is closed."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._busy:  # another task reads it, and meets the closed connection
                self._ledger.leave(self._lease, "discarded")
            elif not self._lease.left and (self._ended or await self._run_out()):
                await self._stream.aclose()
                self._ledger.leave(self._lease)
        finally:
            self._ledger.leave(self._lease, "discarded")

    async def _run_out(self) -> bool:
        """Let the engine's generators end, without waiting for the network; tell whether the body was at its end."""
        if self._iterator is None:
            self._iterator = self._stream.__aiter__()
        try:
            with trio.CancelScope() as scope:
                scope.cancel()
                while True:  # as far as what was read already goes
                    await self._iterator.__anext__()
        except StopAsyncIteration:
            return True
        except Exception:
            return False
        return False

    def __del__(self) -> None:
        if not self._lease.left:
            self._ledger.reclaim(self._lease)
            warnings.warn(
                f"a response from {self._lease.origin.name} was never closed: use `async with client.stream(...)`, or aclose()",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
