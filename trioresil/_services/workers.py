"""open_workers: a queue of items, and tasks that run one function for each.

The law of this file:

1. An item is accepted in the step in which a worker or the queue gets it; until then it is its sender's. accepted = finished +
   unfinished, at any moment and after any end.
2. Nobody passes: who waits to send is let in first, in the step in which there is room.
3. An outcome is with its worker, in the channel, read, or undelivered. Closing the last receiver takes what is in the channel.
4. What would wait for ever because nobody reads, or because nobody is left to work, is told so: in the step in which the last
   that could have helped is gone, since a body that is shielded does not end before.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, Literal, NoReturn, TypeVar

import attrs
import trio
from trio.lowlevel import (
    Abort,
    ParkingLot,
    Task,
    cancel_shielded_checkpoint,
    checkpoint,
    checkpoint_if_cancelled,
    current_clock,
    current_task,
    enable_ki_protection,
    reschedule,
    wait_task_rescheduled,
)

from .. import _instruments
from .._checks import count, text, whole
from .._errors import NestingError, PoolClosedError, in_another_run
from .._kernel.progress import Progress
from .._links import check_cancelled, mark_unstarted
from ..abc import Policy
from ._crew import NOTHING, Crew, OnError, check_on_error, check_policy, check_progress
from ._outcomes import Outcome, OutcomeChannel, Reporter, Shelf
from ._tasks import Tasks

I = TypeVar("I")  # noqa: E741 - an item
V = TypeVar("V")


@attrs.frozen(kw_only=True)
class WorkersStatistics:
    """Snapshot of Workers."""

    name: str
    """Their name."""
    workers: int
    """How many items may be in hand at once."""
    busy: int
    """Workers that have an item in hand, or an outcome that they have yet to deliver."""
    delivering: int
    """Those of them that wait for room among the results."""
    queued: int
    """Accepted items that wait for a worker, or waited when the workers were cancelled."""
    sending: int
    """Tasks that wait to send; their items are not accepted yet."""
    accepted: int
    """Items accepted so far."""
    succeeded: int
    """Items whose function returned."""
    failed: int
    """Items that ended with an error."""
    unfinished: int
    """Accepted items that have not ended so."""
    undelivered: int
    """Outcomes that found no reader."""
    rejected: int
    """Sends that were rejected."""
    last_error: Exception | None
    """The error that came last. None: nothing yet."""
    closed: bool
    """Whether no more items are accepted."""


class open_workers(Generic[I, V]):
    """Run a function for each item that is sent, some at a time, with backpressure.

    For items that turn up over time, from any number of tasks, also from the function itself. For items that are all there use
    map_concurrently. A pool has connections, not work: see open_pool.

    Synopsis::

        async with trioresil.open_workers(store, workers=10) as workers:
            async for row in source:
                await workers.send(row)           # waits while all are busy

        async with trioresil.open_workers(fetch, workers=10, results=100, policy=pipeline) as workers:
            nursery.start_soon(feed, workers)     # sends, and then calls workers.close_admission()
            async for outcome in workers.results:
                print(outcome.item, outcome.value, outcome.error)

    A block that ends takes no more items, and finishes those that were sent; one that raises or is cancelled has its workers
    cancelled at once. What was not finished is in `workers.unfinished`.

    Workers run in the context of the task that opened the block, and are made as they are needed.

    Fairness: first come, first served, items as well as senders.
    Sharing: any task of the run may send, and read through a clone of `workers.results`.

    Args:
      async_fn (async (item) -> value): what to run for each item.
      workers (int >= 1): most items at once. Default: 10.
      buffer (int >= 0, or math.inf): items that may wait for a worker; beyond that `send` waits. Default: 0.
      results (int >= 0, or math.inf): outcomes that may wait to be read; beyond that workers wait. Default: None, values are
        dropped and counted.
      policy (Policy): goes around each item; its parts are shared as ever. Default: None.
      on_error ("collect" or "raise"): whether an error is an outcome like others, or ends the block. With "raise" the first
        error leaves the block as it was raised; outcomes of items that end while they are cancelled are undelivered. Default:
        "raise" without results, else "collect".
      progress ((Progress) -> None): called at most 10 times a second while items are finished, and at the end; `total` is what
        was sent so far. Must not wait. If it raises, that is logged, and it is not called again. Default: None.
      name (str): name in errors, events and statistics. Default: "workers".

    Cancellation: entering is no checkpoint. Leaving waits for what was sent; cancelled then, it cancels the workers.

    Raises:
      RuntimeError: leaving would wait for ever: a clone of `results` is open, all workers wait for room, and nobody has ever
        read one.
      Exception: with on_error="raise" what a function raised; with either a mistake in the program, such as a function that isn't
        async.
    """

    def __init__(
        self,
        async_fn: Callable[[I], Awaitable[V]],
        *,
        workers: int = 10,
        buffer: float = 0,
        results: float | None = None,
        policy: Policy | None = None,
        on_error: OnError | None = None,
        progress: Callable[[Progress], object] | None = None,
        name: str = "workers",
    ) -> None:
        self.name: str = text("name", name)
        self._async_fn = async_fn
        self._size = whole("workers", workers)
        self._buffer = count("buffer", buffer, least=0, infinite=True)
        self._capacity = None if results is None else count("results", results, least=0, infinite=True)
        self._policy = check_policy(policy)
        default: OnError = "raise" if results is None else "collect"
        self._on_error: OnError = default if on_error is None else check_on_error(on_error)
        self._progress = check_progress(progress)
        self._tasks = Tasks(self.name)
        self._workers: Workers[I, V] = Workers(self)

    @enable_ki_protection
    async def __aenter__(self) -> Workers[I, V]:
        await self._tasks.__aenter__()
        self._workers._open()
        return self._workers

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:  # plain bool: checkers would think that a block may swallow
        self._tasks.check_task()
        self._workers._close()
        try:
            if error is None:
                await self._workers._wait_until_drained()
        except BaseException as exc:  # a cancellation, maybe because a worker failed
            if not await self._leave(exc):
                raise
            return True
        return await self._leave(error)

    async def _leave(self, error: BaseException | None) -> bool:
        self._workers._stop()
        traceback = None if error is None else error.__traceback__
        try:
            return await self._tasks.__aexit__(None if error is None else type(error), error, traceback)
        finally:
            self._workers._end()
            del error  # its traceback holds this frame


async def serve_workers(
    async_fn: Callable[[Any], Awaitable[Any]],
    *,
    task_status: trio.TaskStatus[Workers[Any, Any]] = trio.TASK_STATUS_IGNORED,
    **options: Any,
) -> None:
    """Keep workers until this is cancelled, for a nursery that outlives the function that starts it.

    Synopsis::

        workers = await nursery.start(functools.partial(trioresil.serve_workers, store, workers=5))

    Args:
      async_fn (async (item) -> value): what to run for each item.
      task_status: tells the Workers to `nursery.start`.
      **options: what `open_workers` takes.

    Cancellation: cancels the workers. To finish what was sent call `close_admission` and `wait_drained` before.
    """
    async with open_workers(async_fn, **options) as workers:
        task_status.started(workers)
        await trio.sleep_forever()


class Workers(Generic[I, V]):
    """What `open_workers` opens: takes items. It is not built by hand.

    Attributes:
      name (str): their name.
    """

    def __init__(self, options: open_workers[I, V], /) -> None:
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
        self._buffer = options._buffer
        self._items: deque[I] = deque()
        self._senders: OrderedDict[Task, _Sending[I]] = OrderedDict()
        self._accepted = self._rejected = self._delivered = 0
        self._delivering = 0  # workers that wait for room among the results
        self._sending_themselves = 0  # workers that wait in a `send` of their function
        self._is_closed = False
        self._drained = ParkingLot()
        self._sender: trio.MemorySendChannel[Outcome[I, V]] | None = None
        self._results: OutcomeChannel[I, V] | None = None
        if options._capacity is not None:
            self._sender, receiver = trio.open_memory_channel[Outcome[I, V]](options._capacity)
            self._results = OutcomeChannel(receiver, Shelf(self._crew.undelivered))

    @property
    def results(self) -> OutcomeChannel[I, V]:
        """The outcomes, in the order in which they come. It ends when admission is closed and all items are finished.

        Raises:
          RuntimeError: the workers were opened without `results`.
        """
        if self._results is None:
            raise RuntimeError(
                f"{self.name}: to have results, open the workers with results=<how many may wait to be read>"
            )
        return self._results

    @property
    def unfinished(self) -> list[I]:
        """Accepted items that have not ended, the earliest first; after the block those that never will."""
        return [*self._crew.in_hand(), *self._items]

    @property
    def undelivered(self) -> list[Outcome[I, V]]:
        """Outcomes that found no reader: the last receiver was closed before, or the worker cancelled, or others failed."""
        return list(self._crew.undelivered)

    @enable_ki_protection
    async def send(self, item: I) -> None:
        """Send an item, and wait until a worker or the buffer has room for it.

        Cancellation: a full checkpoint. If it raises, the item was not accepted.

        Raises:
          PoolClosedError: admission is closed, or the workers were cancelled, or one has failed, in the meantime.
          RuntimeError: this would wait for ever: it is called where the workers were opened, all of them wait for room among
            results that nobody has ever read; or it is called by a function that they run, and all of them wait in here.
        """
        await check_cancelled()
        self._check_run()
        if self._is_closed:
            await self._reject()
        if self._accept(item):
            await cancel_shielded_checkpoint()
        else:
            await self._wait_to_send(item)

    @enable_ki_protection
    def send_nowait(self, item: I) -> None:
        """Send an item if there is room for it at once.

        Raises:
          trio.WouldBlock: there is none.
          PoolClosedError: admission is closed.
        """
        self._check_run()
        if self._is_closed:
            self._rejected += 1
            raise PoolClosedError(self.name)
        if not self._accept(item):
            raise trio.WouldBlock

    @enable_ki_protection
    def resize(self, workers: int) -> None:
        """Change how many items may be in hand at once. A worker too many finishes its item and retires. Synchronous.

        Args:
          workers (int >= 1): most items at once.
        """
        size = whole("workers", workers)
        self._check_run()
        self._crew.resize(size)

    @enable_ki_protection
    def close_admission(self) -> None:
        """From now on reject new items. What was sent, and who waits to send, goes on. Synchronous."""
        self._is_closed = True
        self._settled()

    async def wait_drained(self) -> None:
        """Wait until no item is in hand or queued, every outcome is in the results, and nobody waits to send.

        Without `close_admission` more may come after that: it is how to wait for items that functions send themselves.

        Cancellation: a full checkpoint; nothing changes.

        Raises:
          RuntimeError: this would wait for ever, as for `send`; or it is called by a function that they run.
        """
        await check_cancelled()
        if self._crew.is_at_work():
            await self._refuse(NestingError(f"{self.name}: a function that they run would wait for itself to end"))
        if self._is_drained():
            await cancel_shielded_checkpoint()
        await self._wait_until_drained()
        await checkpoint_if_cancelled()  # maybe they were cancelled, or failed, and so is this

    def statistics(self) -> WorkersStatistics:
        """Return a snapshot; works outside of a run."""
        crew = self._crew
        return WorkersStatistics(
            name=self.name,
            workers=crew.size,
            busy=crew.busy,
            delivering=self._delivering,
            queued=len(self._items),
            sending=len(self._senders),
            accepted=self._accepted,
            succeeded=crew.succeeded,
            failed=crew.failed,
            unfinished=self._accepted - crew.done,
            undelivered=len(crew.undelivered),
            rejected=self._rejected,
            last_error=crew.last_error,
            closed=self._is_closed,
        )

    def __repr__(self) -> str:
        closed = ", closed" if self._is_closed else ""
        waiting = f"{len(self._items)} queued, {len(self._senders)} sending"
        if self._crew.is_over and (left := len(self.unfinished)):
            waiting = f"{left} unfinished"
        return f"<trioresil.Workers {self.name!r} {self._crew.busy}/{self._crew.size} busy, {waiting}{closed}>"

    # -- the way in ------------------------------------------------------------------------------------------------------

    def _accept(self, item: I) -> bool:
        """Give an item to a worker or to the queue. There is room only if nobody waits to send."""
        if not self._crew.hand(item):
            if len(self._items) >= self._buffer:
                return False
            self._items.append(item)
        self._accepted += 1
        return True

    def _next_item(self) -> I:
        """Take the item that is next, and let in who has waited longest for room."""
        if self._items:
            item = self._items.popleft()
            if self._senders:
                self._items.append(self._let_in())
            return item
        return self._let_in() if self._senders else NOTHING

    def _let_in(self) -> I:
        self._accepted += 1
        return self._answer(next(iter(self._senders)), "accepted").item

    async def _wait_to_send(self, item: I) -> None:
        task, is_worker = current_task(), self._crew.is_at_work()
        if is_worker and self._sending_themselves + 1 == self._crew.busy:
            await self._refuse(self._self_wait_error())
        if task is self._opener and self._is_unread():
            await self._refuse(self._unread_error())
        self._sending_themselves += is_worker
        self._settled()
        sending = self._senders[task] = _Sending(item, is_worker)

        def abort(_: Any) -> Abort:
            self._forget(task)
            return Abort.SUCCEEDED

        try:
            await wait_task_rescheduled(abort)
        except BaseException as exc:
            mark_unstarted(exc)
            raise
        if sending.answer == "closed":
            await self._reject()
        if sending.answer == "stuck":
            raise self._self_wait_error() if is_worker else self._unread_error()

    # -- the way out -----------------------------------------------------------------------------------------------------

    async def _deliver(self, number: int, outcome: Outcome[I, V]) -> None:
        """Put an outcome among the results, when there is room."""
        if self._sender is None:
            return
        try:
            self._sender.send_nowait(outcome)
        except trio.WouldBlock:
            pass
        except trio.BrokenResourceError:
            self._crew.undelivered.append(outcome)
            return
        else:
            self._delivered += 1
            return
        self._delivering += 1
        self._settled()
        try:
            await self._sender.send(outcome)  # never broken: whoever closes the last receiver takes it first
        except BaseException:
            self._crew.undelivered.append(outcome)
            raise
        finally:
            self._delivering -= 1

    def _is_drained(self) -> bool:
        """Tell whether nothing is left: items are queued, and senders wait, only while workers are busy."""
        return not self._crew.busy

    def _is_unread(self) -> bool:
        """Tell whether nothing moves any more because nobody has ever read a result."""
        if not self._delivering or self._delivering + self._sending_themselves < self._crew.busy:
            return False
        assert self._results is not None
        return not self._results.was_read(self._delivered)

    def _settled(self) -> None:
        """Look, after a step, whether that was the last of the work, or whether nothing can move any more."""
        if self._crew.is_over:
            self._stop()
        if self._is_drained():
            self._drained.unpark_all()
            if self._is_closed and self._sender is not None:
                self._sender.close()
        elif (self._drained or self._opener in self._senders) and self._is_unread():
            self._drained.unpark_all()
            if self._opener in self._senders:
                self._answer(self._opener, "stuck")
        elif 0 < self._sending_themselves == self._crew.busy:  # there are fewer workers now
            self._answer(next(task for task, sending in self._senders.items() if sending.is_worker), "stuck")

    # -- opening and closing ---------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._opener = current_task()
        self._clock = current_clock()
        if _instruments.installed:
            _instruments.announce(self)
        if self._progress is not None:
            self._crew.reporter = Reporter(self._progress, lambda: (self._crew.done, self._accepted))
            self._tasks.start_soon(self._crew.reporter.run, name=f"{self.name}: reports progress")

    def _close(self) -> None:
        """Close both ends that the body has."""
        self._is_closed = True
        if self._results is not None:
            self._results.close()
        self._settled()

    async def _wait_until_drained(self) -> None:
        while not self._is_drained():
            if current_task() is self._opener and self._is_unread():
                await self._refuse(self._unread_error())
            await self._drained.park()

    def _stop(self) -> None:
        """Turn away who waits to send: what follows is the end of the workers."""
        self._is_closed = True
        while self._senders:
            self._answer(next(iter(self._senders)), "closed")

    def _end(self) -> None:
        if self._crew.reporter is not None:
            self._crew.reporter.finish()

    def _answer(self, task: Task, answer: Literal["accepted", "closed", "stuck"]) -> _Sending[I]:
        """End the wait of a task that waits to send."""
        sending = self._forget(task)
        sending.answer = answer
        reschedule(task)
        return sending

    def _forget(self, task: Task) -> _Sending[I]:
        """Take a task off the list of those who wait to send, and off the count in the same step, not when it runs."""
        sending = self._senders.pop(task)
        self._sending_themselves -= sending.is_worker
        return sending

    def _check_run(self) -> None:
        if current_clock() is not self._clock:
            raise in_another_run(repr(self.name))

    async def _reject(self) -> NoReturn:
        self._rejected += 1
        await _instruments.reject(self, PoolClosedError(self.name))

    async def _refuse(self, error: NestingError) -> NoReturn:
        await checkpoint()
        raise error

    def _unread_error(self) -> NestingError:
        return NestingError(
            f"{self.name}: every worker waits for room among the results, and nobody has ever read one, so this would wait for "
            "ever: read workers.results in another task than the one that sends, or give results=math.inf"
        )

    def _self_wait_error(self) -> NestingError:
        return NestingError(
            f"{self.name}: all {self._crew.busy} workers would wait in send() for one of themselves, and so for ever: "
            "give buffer=math.inf where the function sends items itself"
        )


class _Sending(Generic[I]):
    """A send that waits, and what came of it."""

    __slots__ = ("answer", "is_worker", "item")

    def __init__(self, item: I, is_worker: bool) -> None:
        self.item = item
        self.is_worker = is_worker
        self.answer: Literal["accepted", "closed", "stuck"] | None = None
