"""The line of tasks that wait for slots of a shared bucket in this process.

The law of this file:

1. A waiter has a slot, sleeps once until it is ready, and wakes once. Slots were reserved in the order of the line.
2. A slot is used at the instant that it was reserved for, or never: later it would come on top of what others have reserved for
   then. LATE is what a timer may be late by.
3. Who leaves frees its slot. The head of the line takes the earliest freed slot that is large enough and earlier than its own,
   and frees its own: so the line moves up, a step at each grant, however many have left.
4. What is freed behind everybody can be given back to the server, if it is the last reservation there.
"""

from __future__ import annotations

import heapq
from typing import Final

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task, current_task, reschedule, wait_task_rescheduled

from .token_bucket_scripts import Slot

LATE: Final = 0.001  # seconds


class Waiter:
    """One task in the line, or on its way into it."""

    __slots__ = ("_task", "error", "granted", "scope", "slot", "tokens")

    def __init__(self, tokens: float) -> None:
        self.tokens = tokens
        self.slot: Slot | None = None
        self.granted = False
        self.error: Exception | None = None
        self.scope: trio.CancelScope | None = None  # while it sleeps until its slot is ready
        self._task: Task | None = None  # while it waits for an answer

    def assign(self, slot: Slot) -> None:
        """Give it this slot, and wake it if it waits for an answer."""
        self.slot = slot
        if self.scope is not None:
            self.scope.deadline = slot.ready_at
        self._wake()

    def refuse(self, error: Exception) -> None:
        """Let it end its waiting without a slot."""
        self.error = error
        self._wake()

    def _wake(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            reschedule(task)

    async def wait_for_answer(self) -> None:
        """Wait until it has been given a slot, or refused."""

        def abort(raise_cancel: RaiseCancelT) -> Abort:
            self._task = None
            return Abort.SUCCEEDED

        self._task = current_task()
        await wait_task_rescheduled(abort)

    async def wait_until_ready(self) -> None:
        """Sleep until its slot is ready, or the one that it is given meanwhile."""
        assert self.slot is not None
        with trio.CancelScope(deadline=self.slot.ready_at) as self.scope:
            await trio.sleep_forever()
        self.scope = None


class Line:
    """Waiters with slots, in the order of their slots, and slots that nobody has."""

    def __init__(self) -> None:
        self._waiters: dict[Waiter, None] = {}
        self._freed: list[Slot] = []  # a heap, the earliest first

    def __len__(self) -> int:
        return len(self._waiters)

    @property
    def freed(self) -> int:
        """How many slots nobody has."""
        return len(self._freed)

    def join(self, waiter: Waiter, slot: Slot) -> None:
        """Put a waiter at the end, with the slot that was reserved for it."""
        waiter.assign(slot)
        self._waiters[waiter] = None
        self._serve_head(trio.current_time())

    def take_freed(self, tokens: float, now: float, latest: float) -> Slot | None:
        """Take a slot that nobody has for somebody new, if it is large enough, and ready by `latest`; the last in time."""
        self._drop_missed(now)
        fitting = [slot for slot in self._freed if slot.tokens >= tokens and slot.ready_at <= latest]
        if not fitting:
            return None
        slot = max(fitting)
        self._freed.remove(slot)
        heapq.heapify(self._freed)
        return slot

    def leave(self, waiter: Waiter, *, granted: bool) -> None:
        """Take a waiter out; its slot is used up, or free."""
        if waiter in self._waiters:
            del self._waiters[waiter]
            if not granted:
                self.free(waiter.slot)
        self._serve_head(trio.current_time())

    def free(self, slot: Slot | None) -> None:
        """Keep a slot that nobody has."""
        if slot is not None:
            heapq.heappush(self._freed, slot)
            self._serve_head(trio.current_time())

    def take_tail(self) -> list[Slot]:
        """Take out the freed slots that are behind everybody in the line, the latest first."""
        self._drop_missed(trio.current_time())
        end = max((waiter.slot.end for waiter in self._waiters if waiter.slot is not None), default=(-1.0, -1.0))
        tail = sorted((slot for slot in self._freed if slot.end > end), key=lambda slot: slot.end, reverse=True)
        if tail:
            self._freed = [slot for slot in self._freed if slot.end <= end]
            heapq.heapify(self._freed)
        return tail

    def clear(self) -> None:
        """Forget the slots that nobody has, as they belong to another run's clock."""
        self._freed.clear()

    def _serve_head(self, now: float) -> None:
        self._drop_missed(now)
        head = next(iter(self._waiters), None)
        if head is None or head.slot is None:
            return
        if not self._freed or self._freed[0].ready_at >= head.slot.ready_at:
            return
        if self._freed[0].tokens >= head.tokens:
            head.assign(heapq.heapreplace(self._freed, head.slot))
            return
        best = min((slot for slot in self._freed if slot.tokens >= head.tokens), default=head.slot)
        if best.ready_at < head.slot.ready_at:
            self._freed[self._freed.index(best)] = head.slot
            heapq.heapify(self._freed)
            head.assign(best)

    def _drop_missed(self, now: float) -> None:
        while self._freed and self._freed[0].ready_at < now - LATE:
            heapq.heappop(self._freed)
