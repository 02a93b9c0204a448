"""map_concurrently: a function over many items, some at a time, and the outcomes as they come or in order.

The law of this file:

1. Each item that was taken from `items` is in one place: unfinished, undelivered, or read.
2. At most 2 · workers items are taken and not read, so that memory doesn't grow with a slow reader, nor with one slow item
   when the order is kept.
3. One task takes the items, from first to last, so that an async generator runs in one task. It is not closed, but what it
   waits for is cancelled with it: an iterator goes on where it was, a generator is finished.
4. An error of `items` comes after the outcomes of all that was taken before it. Whoever reads meets it, once; if nobody does,
   it leaves the block as that of a task does.
5. The outcomes end in the step in which there can't be any more, also if the workers were cancelled: a body that is shielded
   does not end before.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sized
from types import TracebackType
from typing import Any, Generic, TypeVar

import attrs
import trio
from trio.lowlevel import (
    ParkingLot,
    checkpoint_if_cancelled,
    current_clock,
    disable_ki_protection,
    enable_ki_protection,
)

from .. import _instruments
from .._checks import flag, text, whole
from .._errors import in_another_run
from .._kernel.progress import Progress
from .._notes import raise_again
from ..abc import Policy
from ._crew import NOTHING, Crew, OnError, check_on_error, check_policy, check_progress
from ._outcomes import Outcome, Reporter
from ._tasks import Tasks

I = TypeVar("I")  # noqa: E741 - an item
V = TypeVar("V")


@attrs.frozen(kw_only=True)
class ConcurrentMapStatistics:
    """Snapshot of a ConcurrentMap."""

    name: str
    """Its name."""
    workers: int
    """How many items may be in hand at once."""
    busy: int
    """Workers that have an item in hand."""
    taken: int
    """Items taken so far."""
    succeeded: int
    """Items whose function returned."""
    failed: int
    """Items that ended with an error."""
    unfinished: int
    """Items taken that have not ended so."""
    unread: int
    """Outcomes that wait to be read, in order or not."""
    read: int
    """Outcomes read so far."""
    last_error: Exception | None
    """The error that came last, of an item. None: nothing yet."""


class map_concurrently(Generic[I, V]):
    """Run a function for each of many items, some at a time, and iterate over the outcomes.

    For items that are all there, or come from an iterator; they are taken as they are needed, so there may be millions. For
    items that turn up over time, from many tasks, use open_workers.

    Synopsis::

        async with trioresil.map_concurrently(fetch, urls, workers=10) as outcomes:
            async for outcome in outcomes:
                print(outcome.item, outcome.value, outcome.error)

    Leaving the block, in whatever way, cancels what is still running; the items are then in `outcomes.unfinished`.

    The functions run in the context of the task that opened the block. `items` is iterated over in a task of its own.

    Fairness: items are begun in their order.
    Sharing: several tasks may read; each outcome goes to one of them.

    Args:
      async_fn (async (item) -> value): what to run for each item.
      items (iterable or async iterable): the items. At most 2 · workers are taken ahead of the reader. An error that it raises
        comes after the outcomes of the items before it; if the block ends before anybody has met it, it comes out there.
      workers (int >= 1): most items at once. Default: 10.
      ordered (bool): outcomes in the order of the items, not in that in which they end. Default: False.
      policy (Policy): goes around each item; its parts are shared as ever. Default: None.
      on_error ("collect" or "raise"): whether an error is an outcome like others, or ends the block. With "raise" the first
        error leaves the block as it was raised; outcomes of items that end while they are cancelled are undelivered. Default:
        "collect".
      progress ((Progress) -> None): called at most 10 times a second while items are finished, and at the end; `total` is
        len(items), if they have one, and else None until there are no more to take. Must not wait. If it raises, that is
        logged, and it is not called again. Default: None.
      name (str): name in statistics and messages. Default: "map".

    Cancellation: entering is no checkpoint. Leaving cancels the functions and waits until they have ended; nothing is taken from
      `items` after that.

    Raises:
      Exception: what `items` raised; with on_error="raise" what a function raised; with either a mistake in the program, such as
        a function that isn't async.
    """

    def __init__(
        self,
        async_fn: Callable[[I], Awaitable[V]],
        items: Iterable[I] | AsyncIterable[I],
        *,
        workers: int = 10,
        ordered: bool = False,
        policy: Policy | None = None,
        on_error: OnError = "collect",
        progress: Callable[[Progress], object] | None = None,
        name: str = "map",
    ) -> None:
        self.name: str = text("name", name)
        self._async_fn = async_fn
        self._items = _check_items(items)
        self._size = whole("workers", workers)
        self._ordered = flag("ordered", ordered)
        self._policy = check_policy(policy)
        self._on_error: OnError = check_on_error(on_error)
        self._progress = check_progress(progress)
        self._tasks = Tasks(self.name)
        self._map: ConcurrentMap[I, V] = ConcurrentMap(self)

    @enable_ki_protection
    async def __aenter__(self) -> ConcurrentMap[I, V]:
        items: Any = self._items
        is_async = isinstance(items, AsyncIterable)
        total = len(items) if isinstance(items, Sized) else None
        iterator = aiter(items) if is_async else iter(items)
        await self._tasks.__aenter__()
        self._map._open(iterator, _take_async if is_async else _take, total)
        return self._map

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:  # plain bool: checkers would think that a block may swallow
        self._tasks.check_task()
        try:
            return await self._tasks.__aexit__(kind, error, traceback)
        finally:
            self._map._end()
            del error  # its traceback holds this frame


class ConcurrentMap(Generic[I, V]):
    """What `map_concurrently` opens: an async iterator over Outcomes. It is not built by hand.

    Attributes:
      name (str): its name.
    """

    def __init__(self, options: map_concurrently[I, V], /) -> None:
        self.name: str = options.name
        self._tasks = options._tasks
        self._progress = options._progress
        self._crew: Crew[I, V] = Crew(
            options._async_fn,
            options._policy,
            options._size,
            options._on_error,
            start_soon=self._tasks.start_soon,
            next_item=self._next_item,
            deliver=self._deliver,
            settled=self._settled,
            name=self.name,
        )
        self._ahead = 2 * options._size
        self._items: deque[I] = deque()
        self._taken = self._unread = self._read = 0
        self._total: int | None = None
        self._is_fed = False  # there are no more items, or they will not be taken
        self._error: Exception | None = None  # of the items, until somebody has seen it
        self._room = ParkingLot()
        self._ordered = options._ordered
        self._due = 0  # the number of the outcome that is next, if the order is kept
        self._early: dict[int, Outcome[I, V]] = {}
        # it needs no bound of its own: `_ahead` is one
        self._sender, self._receiver = trio.open_memory_channel[Outcome[I, V]](math.inf)

    def __aiter__(self) -> ConcurrentMap[I, V]:
        return self

    @enable_ki_protection
    async def __anext__(self) -> Outcome[I, V]:
        """Wait for the next outcome.

        Cancellation: a full checkpoint. If it raises, nothing was taken.

        Raises:
          Exception: what `items` raised, once, after all outcomes.
          trio.ClosedResourceError: the block has ended.
        """
        try:
            outcome = await self._receiver.receive()
        except trio.EndOfChannel:
            # the end of workers that failed is not the end for a reader whom they cancel
            await checkpoint_if_cancelled()
        else:
            self._unread -= 1
            self._read += 1
            self._room.unpark()
            return outcome
        error = self._take_error()
        if error is None:
            raise StopAsyncIteration
        try:
            raise_again(error)
        finally:
            del error  # its traceback holds this frame

    @property
    def unfinished(self) -> list[I]:
        """Items that were taken and have not ended, the earliest first; after the block those that never will."""
        return [*self._crew.in_hand(), *self._items]

    @property
    def undelivered(self) -> list[Outcome[I, V]]:
        """Outcomes that nobody read; complete after the block."""
        return list(self._crew.undelivered)

    @enable_ki_protection
    def resize(self, workers: int) -> None:
        """Change how many items may be in hand at once, and so how many are taken ahead. Synchronous.

        A worker too many finishes its item and retires.

        Args:
          workers (int >= 1): most items at once.
        """
        size = whole("workers", workers)
        if current_clock() is not self._clock:
            raise in_another_run(repr(self.name))
        self._ahead = 2 * size
        self._crew.resize(size)
        self._room.unpark()

    def statistics(self) -> ConcurrentMapStatistics:
        """Return a snapshot; works outside of a run."""
        crew = self._crew
        return ConcurrentMapStatistics(
            name=self.name,
            workers=crew.size,
            busy=crew.busy,
            taken=self._taken,
            succeeded=crew.succeeded,
            failed=crew.failed,
            unfinished=self._taken - crew.done,
            unread=self._unread,
            read=self._read,
            last_error=crew.last_error,
        )

    def __repr__(self) -> str:
        total = "?" if self._total is None else self._total
        busy = f"{self._crew.busy}/{self._crew.size} busy"
        return f"<trioresil.ConcurrentMap {self.name!r} {busy}, {self._read}/{total} read, {self._unread} unread>"

    # -- the way in ------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def _feed(self, items: Any, take: Callable[[Any], Awaitable[I]]) -> None:
        """Take the items; raise their error at the end if nobody has met it."""
        try:
            await self._take_all(items, take)
        except Exception as exc:
            self._error = exc
        finally:
            self._is_fed = True
            self._settled()
        if self._error is None:
            return
        try:
            await trio.sleep_forever()
        finally:
            error = self._take_error()
            try:
                if error is not None:
                    raise_again(error)
            finally:
                del error  # its traceback holds this frame

    async def _take_all(self, items: Any, take: Callable[[Any], Awaitable[I]]) -> None:
        """Take items while there is room, until there are no more."""
        while True:
            await checkpoint_if_cancelled()
            while self._taken - self._read >= self._ahead:
                await self._room.park()
            item = await take(items)
            if item is NOTHING:
                break
            self._taken += 1
            if not self._crew.hand(item):
                self._items.append(item)
        if self._total != self._taken and self._crew.reporter is not None:
            self._crew.reporter.changed()
        self._total = self._taken

    def _next_item(self) -> I:
        return self._items.popleft() if self._items else NOTHING

    # -- the way out -----------------------------------------------------------------------------------------------------

    async def _deliver(self, number: int, outcome: Outcome[I, V]) -> None:
        self._unread += 1
        if not self._ordered:
            self._sender.send_nowait(outcome)
            return
        self._early[number] = outcome
        while self._due in self._early:
            self._sender.send_nowait(self._early.pop(self._due))
            self._due += 1

    def _settled(self) -> None:
        """Let the outcomes end if there can't be any more: items are queued only while workers are busy."""
        if not self._crew.busy and (self._crew.is_over or self._is_fed):
            self._sender.close()

    def _take_error(self) -> Exception | None:
        """Return what the items raised, once."""
        error, self._error = self._error, None
        return error

    # -- opening and closing ---------------------------------------------------------------------------------------------

    def _open(self, items: Any, take: Callable[[Any], Awaitable[I]], total: int | None) -> None:
        if _instruments.installed:
            _instruments.announce(self)
        self._clock = current_clock()
        self._total = total
        if self._progress is not None:
            self._crew.reporter = Reporter(self._progress, lambda: (self._crew.done, self._total))
            self._tasks.start_soon(self._crew.reporter.run, name=f"{self.name}: reports progress")
        self._tasks.start_soon(self._feed, items, take, name=f"{self.name}: takes items")

    def _end(self) -> None:
        """Gather what nobody read."""
        self._sender.close()
        undelivered = self._crew.undelivered
        while self._receiver.statistics().current_buffer_used:
            undelivered.append(self._receiver.receive_nowait())
        undelivered += self._early.values()
        self._early.clear()
        self._receiver.close()
        if self._crew.reporter is not None:
            self._crew.reporter.finish()


def _check_items(items: Any) -> Any:
    if not isinstance(items, (AsyncIterable, Iterable)):
        raise TypeError(f"items must be an iterable or an async iterable, not {items!r}")
    return items


@disable_ki_protection  # what is called is the user's
async def _take(items: Any) -> Any:
    return next(items, NOTHING)


@disable_ki_protection
async def _take_async(items: Any) -> Any:
    return await anext(items, NOTHING)
