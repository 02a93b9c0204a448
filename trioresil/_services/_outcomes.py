"""What workers give: outcomes, the channel in which they are read, and reports of progress."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import attrs
import trio
from trio.lowlevel import (
    cancel_shielded_checkpoint,
    checkpoint,
    checkpoint_if_cancelled,
    disable_ki_protection,
    enable_ki_protection,
)

from .._kernel.progress import Progress, measure
from .._links import check_cancelled
from .._notes import raise_again

I = TypeVar("I")  # noqa: E741 - an item
V = TypeVar("V")

REPORT_INTERVAL: Final = 0.1
_logger = logging.getLogger("trioresil")


@attrs.frozen
class Outcome(Generic[I, V]):
    """What became of one item."""

    item: I
    """The item."""
    value: V | None
    """What the function returned; None if it failed."""
    error: Exception | None
    """What came out in its place, the object itself; None if it succeeded."""
    attempts: int
    """How many times the function was entered: 0 if a policy rejected the item, more than 1 if one ran it again."""

    def unwrap(self) -> V:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise_again(self.error)
        return self.value  # type: ignore[return-value]


class Shelf(Generic[I, V]):
    """What all receivers of one channel share."""

    __slots__ = ("undelivered", "was_read")

    undelivered: list[Outcome[I, V]]
    was_read: bool

    def __init__(self, undelivered: list[Outcome[I, V]]) -> None:
        self.undelivered = undelivered
        self.was_read = False


class OutcomeChannel(trio.abc.ReceiveChannel[Outcome[I, V]]):
    """The reading end of a channel of Outcomes: like a trio.MemoryReceiveChannel, except that nothing in it is lost.

    What is in it when its last receiver is closed can be read from `workers.undelivered`.

    Synopsis::

        async for outcome in workers.results:
            ...
    """

    def __init__(self, receiver: trio.MemoryReceiveChannel[Outcome[I, V]], shelf: Shelf[I, V], /) -> None:
        self._receiver = receiver
        self._shelf = shelf
        self._is_closed = False

    @enable_ki_protection
    async def receive(self) -> Outcome[I, V]:
        """Wait for the next outcome, and return it.

        Cancellation: a full checkpoint. If it raises, nothing was taken.

        Raises:
          trio.EndOfChannel: admission is closed, all items are finished, and all outcomes were read.
          trio.ClosedResourceError: this receiver was closed.
        """
        await check_cancelled()
        try:
            outcome = self.receive_nowait()
        except trio.WouldBlock:
            pass
        else:
            await cancel_shielded_checkpoint()
            return outcome
        try:
            return await self._receiver.receive()
        except trio.EndOfChannel:
            # the end of workers that failed is not the end for a reader whom they cancel
            await checkpoint_if_cancelled()
            raise

    @enable_ki_protection
    def receive_nowait(self) -> Outcome[I, V]:
        """Return the next outcome, if there is one.

        Raises:
          trio.WouldBlock: there is none yet.
          trio.EndOfChannel: there will be none any more.
          trio.ClosedResourceError: this receiver was closed.
        """
        outcome = self._receiver.receive_nowait()
        self._shelf.was_read = True
        return outcome

    def clone(self) -> OutcomeChannel[I, V]:
        """Return another receiver of the same channel, for a task that is to read on when the block has ended."""
        return OutcomeChannel(self._receiver.clone(), self._shelf)

    @enable_ki_protection
    def close(self) -> None:
        """Close this receiver. If it is the last, what is in the channel, and what comes later, is undelivered. Synchronous."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._is_last():
            self._shelf.was_read = True  # nobody has to, any more
        while self._is_last():
            try:
                self._shelf.undelivered.append(self._receiver.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                break
        self._receiver.close()

    async def aclose(self) -> None:
        """Close this receiver.

        Cancellation: a full checkpoint; it is closed in any case.
        """
        self.close()
        await checkpoint()

    def statistics(self) -> trio.MemoryChannelStatistics:
        """Return what Trio says of the channel."""
        return self._receiver.statistics()

    def was_read(self, delivered: int) -> bool:
        """Tell whether any of the outcomes that came into the channel so far has come out of it."""
        return self._shelf.was_read or delivered > self._receiver.statistics().current_buffer_used

    def _is_last(self) -> bool:
        return self._receiver.statistics().open_receive_channels == 1


class Reporter:
    """Tells a callback how far the work has come, in a task of its own: at once, and then not again for a while.

    A callback that raises is logged once and not called again: a progress bar must not cost the work.
    """

    def __init__(self, callback: Callable[[Progress], object], count: Callable[[], tuple[int, int | None]]) -> None:
        self._callback: Callable[[Progress], object] | None = callback
        self._count = count
        self._opened_at = trio.current_time()
        self._news = trio.Event()

    def changed(self) -> None:
        """Note that an item is finished."""
        self._news.set()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await self._news.wait()
            self._tell()
            await trio.sleep(REPORT_INTERVAL)

    def finish(self) -> None:
        """Report what has not been told yet."""
        if self._news.is_set():
            self._tell()

    def _tell(self) -> None:
        self._news = trio.Event()
        if self._callback is None:
            return
        done, total = self._count()
        try:
            _call(self._callback, measure(done, total, trio.current_time() - self._opened_at))
        except Exception:
            _logger.exception("the progress callback %r raised and is switched off", self._callback)
            self._callback = None


@disable_ki_protection  # what is called is the user's
def _call(callback: Callable[[Progress], object], progress: Progress) -> None:
    callback(progress)
