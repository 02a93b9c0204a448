"""What the tests of the limits share: arrival in a known order, checkpoints counted, clocks that are late, an exact queue."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from trioresil._kernel.token_bucket import Bucket


async def start_in_order(nursery: trio.Nursery, *fns: Callable[[], Awaitable[object]]) -> None:
    """Start tasks one after the other, each once the one before waits: Trio itself starts them in any order."""
    for fn in fns:
        nursery.start_soon(fn)
        await wait_all_tasks_blocked()


class _Steps(trio.abc.Instrument):
    def __init__(self) -> None:
        self.task = trio.lowlevel.current_task()
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task is self.task


async def schedule_points(fn: Callable[[], Awaitable[object]]) -> int:
    """Count how often fn lets other tasks run."""
    steps = _Steps()
    trio.lowlevel.add_instrument(steps)
    try:
        await fn()
    finally:
        trio.lowlevel.remove_instrument(steps)
    return steps.count


async def notices_cancellation(fn: Callable[[], Awaitable[object]]) -> bool:
    """Tell whether fn raises Cancelled where its scope has been cancelled already."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await fn()
    return scope.cancelled_caught


class LateClock(trio.abc.Clock):
    """A virtual clock that jumps to the next deadline, and past it by a lateness; `now` may be set, for a stall."""

    def __init__(self, lateness: Callable[[], float] = lambda: 0.0) -> None:
        self.now = 100.0
        self._lateness = lateness
        self._idle = 0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Called by Trio when no task can run: what would be a sleep is a jump."""
        if deadline == math.inf:
            self._idle += 1
            assert self._idle < 100, "every task is blocked for good"
            return 0.01  # Trio itself waits so, as a run ends
        self.now = max(self.now, deadline + self._lateness())
        return 0.0


class TickingClock(LateClock):
    """A virtual clock that stands still between its ticks of a millisecond, and wakes nobody before the next one."""

    def deadline_to_sleep_time(self, deadline: float) -> float:
        seconds = super().deadline_to_sleep_time(deadline)
        self.now = math.ceil(self.now * 1000) / 1000
        return seconds


def most_above_the_line(grants: Iterable[tuple[float, float]], rate: float) -> float:
    """Return the largest sum of tokens less rate * length over all windows; grants are (time, tokens), oldest first."""
    worst = lowest = 0.0
    before = 0.0  # tokens granted so far
    lowest = math.inf
    for at, tokens in grants:
        lowest = min(lowest, before - rate * at)
        before += tokens
        worst = max(worst, before - rate * at - lowest)
    return worst


@attrs.define
class ModelQueue:
    """First come, first served, one after the other: what a TokenBucket's queue must do, without tasks."""

    level: Bucket
    max_wait: float = math.inf
    now: float = 0.0
    queue: list[tuple[Any, float]] = attrs.field(factory=list)
    grants: list[tuple[Any, float]] = attrs.field(factory=list)
    rejections: list[tuple[Any, float]] = attrs.field(factory=list)

    def advance(self, until: float, *, inclusive: bool = True) -> None:
        """Let time pass, with all grants that are due until then."""
        while self.queue:
            ready_at = max(self.now, self.level.ready_at(self.queue[0][1], self.now, True))
            if ready_at > until or (ready_at == until and not inclusive):
                break
            self.now = ready_at
            self._grant(*self.queue.pop(0), queued=True)
        self.now = until

    def arrive(self, who: object, tokens: float) -> None:
        """Somebody wants tokens, now."""
        if not self.queue and self.level.ready_at(tokens, self.now, False) <= self.now:
            self._grant(who, tokens, queued=False)
            return
        ahead = sum(each for _, each in self.queue)
        wait = max(0.0, self.level.ready_at(ahead + tokens, self.now, True) - self.now)
        if wait > self.max_wait:
            self.rejections.append((who, wait))
        else:
            self.queue.append((who, tokens))

    def leave(self, who: object) -> None:
        """Somebody in the queue was cancelled, now."""
        self.queue = [each for each in self.queue if each[0] != who]

    def _grant(self, who: object, tokens: float, *, queued: bool) -> None:
        self.level.take(tokens, self.now, queued)
        self.grants.append((who, self.now))
