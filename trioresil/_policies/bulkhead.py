"""Bulkhead: at most so many at once, the others in a queue. The permits are those of a `trio.CapacityLimiter`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NoReturn

import attrs
import trio
from trio import CancelScope, CapacityLimiter
from trio.lowlevel import (
    ParkingLot,
    cancel_shielded_checkpoint,
    current_clock,
    current_root_task,
    current_task,
    enable_ki_protection,
)

from .. import _instruments
from .._checks import count, seconds, text
from .._errors import BulkheadFullError, NestingError, in_another_run, outside_trio
from .._links import Link, check_cancelled, mark_unstarted
from ..abc import Policy


@attrs.frozen(kw_only=True)
class BulkheadStatistics:
    """Snapshot of a Bulkhead."""

    name: str
    """Its name."""
    limit: float
    """How many may be inside at once."""
    inside: int
    """How many are inside, through this bulkhead."""
    borrowed: int
    """How many permits of the limiter are taken, by whomever."""
    waiting: int
    """Tasks in this bulkhead's queue."""
    rejected: int
    """Rejections so far."""
    closed: bool
    """Whether admission is closed."""


class _Permit:
    """A borrower of the limiter: each call its own, as a CapacityLimiter refuses the same borrower twice."""

    __slots__ = ("bulkhead", "task")

    bulkhead: Bulkhead
    task: trio.lowlevel.Task


class Bulkhead(Policy):
    """Limits how many calls run at once; the others wait in a queue, in the order of arrival.

    It keeps one slow dependency from taking all of a program's tasks, connections and memory. To limit how *often* things happen
    use a TokenBucket. The limit may be a `trio.CapacityLimiter` that other policies and your own code use too: all of them
    together then stay below it.

    Synopsis::

        bulkhead = trioresil.Bulkhead(10, max_waiting=100)

        async with bulkhead:
            ...

        bulkhead.limit = 5                        # live; 0 pauses

    Fairness: first come, first served. A permit that somebody gives back goes to the first in the queue in the same step.
    Sharing: permits are interchangeable; a block may be left in any order, and by another task than the one that entered it.

    Args:
      limit (int >= 0, math.inf, or a trio.CapacityLimiter): how many may be inside at once.
      max_waiting (int >= 0 or math.inf): longest queue; whoever finds it full is rejected. Default: math.inf.
      max_wait (float, seconds, >= 0): longest wait in the queue. Default: math.inf.
      name (str): its name in errors, events and statistics. Default: "bulkhead".

    Cancellation: `acquire` and the block are full checkpoints. If they raise, no permit was taken. `call` and the decorator check
    for cancellation, and leave the schedule point to the function unless they wait. A permit is given back in the same step in
    which the work ends, however it ends.

    Raises:
      BulkheadFullError: the queue is full, the wait took longer than max_wait, or admission is closed.
      RuntimeError: a task would wait while it holds every permit itself, and so for ever.

    Source: M. Nygard, "Release It!".
    """

    _one_chain = True

    def __init__(
        self,
        limit: float | CapacityLimiter,
        *,
        max_waiting: float = math.inf,
        max_wait: float = math.inf,
        name: str = "bulkhead",
    ) -> None:
        self.name: str = text("name", name)
        self._limiter = limit if isinstance(limit, CapacityLimiter) else CapacityLimiter(_check_limit(limit))
        self._max_waiting = count("max_waiting", max_waiting, least=0, infinite=True)
        self._max_wait = seconds("max_wait", max_wait)
        self._queue: set[_Permit] = set()
        self._rejected = 0
        self._clock: trio.abc.Clock | None = None
        self._closed = False
        self._drained = ParkingLot()
        self._draining = False  # whether somebody waits there, or has: cheaper to ask
        self._block_permits: dict[trio.lowlevel.Task, list[_Permit]] = {}

    @property
    def limit(self) -> float:
        """How many may be inside at once. May be set at any time, also to 0; those inside are not disturbed."""
        return self._limiter.total_tokens

    @limit.setter
    def limit(self, value: float) -> None:
        self._limiter.total_tokens = _check_limit(value)

    # -- the primitive ---------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def acquire(self) -> None:
        """Take a permit, waiting in the queue for it. Give it back with `release`; better, use `async with`.

        Cancellation: if this raises, no permit was taken. A full checkpoint.

        Raises:
          BulkheadFullError: the queue is full, the wait took longer than max_wait, or admission is closed.
          RuntimeError: this task holds every permit itself.
        """
        await check_cancelled()
        if _instruments.installed:
            _instruments.announce(self)
        permit = self._new_permit()
        if self._closed:
            await self._reject("admission is closed")
        try:
            self._limiter.acquire_on_behalf_of_nowait(permit)
        except trio.WouldBlock:
            await self._wait(permit)
        else:
            await cancel_shielded_checkpoint()
        self._keep(permit)

    @enable_ki_protection
    def acquire_nowait(self) -> None:
        """Take a permit if one is free and nobody is waiting.

        Raises:
          trio.WouldBlock: none is, or admission is closed.
        """
        if _instruments.installed:
            _instruments.announce(self)
        if self._closed:
            raise trio.WouldBlock
        permit = self._new_permit()
        self._limiter.acquire_on_behalf_of_nowait(permit)
        self._keep(permit)

    @enable_ki_protection
    def release(self) -> None:
        """Give back a permit that `acquire` took, one of this task's if it has any.

        Raises:
          RuntimeError: no permit was taken by `acquire`.
        """
        task = _this_task()
        if task not in self._block_permits:
            if not self._block_permits:
                raise RuntimeError(f"{self.name}: release() without acquire()")
            task = next(iter(self._block_permits))
        permits = self._block_permits[task]
        permit = permits.pop()
        if not permits:
            del self._block_permits[task]
        self._give_back(permit)

    # -- the forms -------------------------------------------------------------------------------------------------------

    def link(self, inner: Link) -> Link:
        """Return one link of a chain; see trioresil.abc.Policy."""
        acquire_nowait, release = self._limiter.acquire_on_behalf_of_nowait, self._limiter.release_on_behalf_of

        async def link(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            if _instruments.installed:
                _instruments.announce(self)
            permit = _Permit()
            permit.bulkhead = self
            permit.task = current_task()
            if self._closed:
                await self._reject("admission is closed")
            try:
                acquire_nowait(permit)
            except trio.WouldBlock:
                await self._wait(permit)
            try:
                return await inner(args, kwargs)
            finally:  # as in _give_back, whose call would cost as much as what it does
                release(permit)
                if self._draining:
                    self._wake_if_drained()

        return link

    @enable_ki_protection
    async def __aenter__(self) -> None:
        await self.acquire()

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    # -- draining --------------------------------------------------------------------------------------------------------

    def close_admission(self) -> None:
        """From now on reject new calls. Those inside and those in the queue go on. Synchronous."""
        self._closed = True

    async def wait_drained(self) -> None:
        """Wait until nobody is inside, nor in the queue, through this bulkhead.

        Cancellation: a full checkpoint; nothing changes.
        """
        await check_cancelled()
        if not self._inside() and not self._queue:
            await cancel_shielded_checkpoint()
        while self._inside() or self._queue:
            self._draining = True
            await self._drained.park()

    def statistics(self) -> BulkheadStatistics:
        """Return a snapshot; works outside of a run."""
        return BulkheadStatistics(
            name=self.name,
            limit=self._limiter.total_tokens,
            inside=self._inside(),
            borrowed=self._limiter.borrowed_tokens,
            waiting=self._waiting(),
            rejected=self._rejected,
            closed=self._closed,
        )

    def __repr__(self) -> str:
        closed = ", closed" if self._closed else ""
        used = f"{self._limiter.borrowed_tokens}/{self._limiter.total_tokens:g} taken"
        return f"<trioresil.Bulkhead {self.name!r} {used}, {self._waiting()} waiting{closed}>"

    # -- inside ----------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def _wait(self, permit: _Permit) -> None:
        """Get a permit through the queue; if this raises, none was taken."""
        if self._max_wait == 0 or self._max_waiting == 0:
            await self._reject("every permit is taken and nobody may wait")
        if len(self._queue) >= self._max_waiting and self._waiting() >= self._max_waiting:
            await self._reject(f"every permit is taken and {self._waiting()} wait already")
        self._refuse_self_wait(permit.task)
        self._refuse_other_run()
        self._queue.add(permit)
        granted = False
        try:
            granted = await self._granted(permit)
        except BaseException as exc:
            mark_unstarted(exc)
            raise
        finally:
            self._queue.remove(permit)
            if self._draining and not granted:
                self._wake_if_drained()
        if not granted:
            await self._reject(f"no permit became free within max_wait={self._max_wait:g} s")

    async def _granted(self, permit: _Permit) -> bool:
        """Wait in the limiter's queue; False if that took longer than max_wait."""
        if self._max_wait == math.inf:
            await self._limiter.acquire_on_behalf_of(permit)
            return True
        with CancelScope(deadline=trio.current_time() + self._max_wait):
            await self._limiter.acquire_on_behalf_of(permit)
            return True
        return False

    def _refuse_self_wait(self, task: trio.lowlevel.Task) -> None:
        borrowers = self._limiter.statistics().borrowers
        if self._limiter.total_tokens and all(_task_of(each) is task for each in borrowers):
            raise NestingError(
                f"{self.name}: this task holds all {len(borrowers)} permits itself, so it would wait for ever: "
                "use separate bulkheads for nested work, or raise the limit"
            )

    def _refuse_other_run(self) -> None:
        """Refuse to wait for a task of another run, which would wake this one up from its own thread. Looks once in a run."""
        clock = current_clock()
        if clock is self._clock:
            return
        root = current_root_task()
        borrowers = [each for each in self._limiter.statistics().borrowers if isinstance(each, _Permit)]
        if any(_is_running(each.task) and _root_of(each.task) is not root for each in (*borrowers, *self._queue)):
            raise in_another_run(repr(self.name))
        self._clock = clock

    async def _reject(self, reason: str) -> NoReturn:
        self._rejected += 1
        error = BulkheadFullError(self.name)
        error.reason = reason
        try:
            await _instruments.reject(self, error)
        finally:
            del error  # its traceback holds this frame

    def _inside(self) -> int:
        """Count the calls and blocks inside. Nothing is counted as they come and go: their permits are in the limiter."""
        borrowers = self._limiter.statistics().borrowers
        return sum(isinstance(each, _Permit) and each.bulkhead is self for each in borrowers)

    def _waiting(self) -> int:
        """Count the queue, less those who have been given their permit and have yet to run."""
        return len(self._queue) - len(self._queue.intersection(self._limiter.statistics().borrowers))

    def _new_permit(self) -> _Permit:
        permit = _Permit()
        permit.bulkhead = self
        permit.task = _this_task()
        return permit

    def _keep(self, permit: _Permit) -> None:
        self._block_permits.setdefault(permit.task, []).append(permit)

    def _give_back(self, permit: _Permit) -> None:
        self._limiter.release_on_behalf_of(permit)
        if self._draining:
            self._wake_if_drained()

    def _wake_if_drained(self) -> None:
        if not self._drained or not (self._inside() or self._queue):
            self._draining = False
            self._drained.unpark_all()


def _this_task() -> trio.lowlevel.Task:
    try:
        return current_task()
    except RuntimeError as exc:
        raise outside_trio(exc) from None


def _is_running(task: trio.lowlevel.Task) -> bool:
    return inspect.getcoroutinestate(task.coro) != inspect.CORO_CLOSED


def _root_of(task: trio.lowlevel.Task) -> trio.lowlevel.Task:
    while task.parent_nursery is not None:
        task = task.parent_nursery.parent_task
    return task


def _task_of(borrower: object) -> object:
    return borrower.task if isinstance(borrower, _Permit) else borrower


def _check_limit(value: object) -> int | float:
    return count("limit", value, least=0, infinite=True)
