"""Toy primitives, each with one bug of cancellation planted in it, and its correct twin.

They test the net: a sweep that lets one of these through would let the real thing through as well. A pair differs in
the lines of the bug only, so the bug is what is found and not some other difference.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class Waiter:
    """A place in a queue."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.granted = False


class Slots:
    """A semaphore that hands a slot to the head of its queue directly; correct."""

    def __init__(self, slots: int = 1) -> None:
        self.slots = self.free = slots
        self.held = 0
        self.queue: deque[Waiter] = deque()

    async def acquire(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.free:
            self.free -= 1
            self.held += 1
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        waiter = Waiter()
        self.queue.append(waiter)
        try:
            await waiter.event.wait()
        except BaseException:
            self.give_up(waiter)
            raise

    def give_up(self, waiter: Waiter) -> None:
        if waiter.granted:
            self.release()
        else:
            self.queue.remove(waiter)

    def release(self) -> None:
        if self.queue:
            waiter = self.queue.popleft()
            waiter.granted = True
            waiter.event.set()
        else:
            self.free += 1
            self.held -= 1

    def check(self) -> None:
        assert 0 <= self.free <= self.slots
        assert self.free + self.held == self.slots, "a slot is lost"
        assert not (self.free and self.queue), "a slot is free and somebody waits for it"

    async def use(self, seconds: float) -> None:
        await self.acquire()
        try:
            await trio.sleep(seconds)
        finally:
            self.release()


class CheckpointBeforeTry(Slots):
    """Bug: a cancellation between acquire and try leaves the slot taken."""

    async def use(self, seconds: float) -> None:
        await self.acquire()
        await trio.lowlevel.checkpoint()
        try:
            await trio.sleep(seconds)
        finally:
            self.release()


class WakeThenTake(Slots):
    """Bug: a woken waiter takes the slot itself; cancelled in between, it has used up the wake-up of the next one."""

    async def acquire(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self.free:
            waiter = Waiter()
            self.queue.append(waiter)
            try:
                await waiter.event.wait()
            except BaseException:
                self.give_up(waiter)
                raise
        self.free -= 1
        self.held += 1

    def give_up(self, waiter: Waiter) -> None:
        if waiter in self.queue:
            self.queue.remove(waiter)

    def release(self) -> None:
        self.free += 1
        self.held -= 1
        if self.queue:
            self.queue.popleft().event.set()


class WakeThenTakePassedOn(WakeThenTake):
    """The twin of WakeThenTake: who gives up after it was woken wakes the next."""

    def give_up(self, waiter: Waiter) -> None:
        if waiter in self.queue:
            self.queue.remove(waiter)
        elif self.queue:
            self.queue.popleft().event.set()


class ForgottenEntry(Slots):
    """Bug: a cancelled waiter stays in the queue, and a slot is handed to it."""

    def give_up(self, waiter: Waiter) -> None:
        if waiter.granted:
            self.release()


class Ticker:
    """Lets one caller through each second. Only the head sleeps, the others wait for its baton; correct."""

    def __init__(self) -> None:
        self.next_at = 0.0
        self.head: Waiter | None = None
        self.queue: deque[Waiter] = deque()

    async def wait(self) -> None:
        me = Waiter()
        if self.head is None:
            self.head = me
        else:
            self.queue.append(me)
            try:
                await me.event.wait()
            except BaseException:
                if me is self.head:
                    self.pass_baton()
                else:
                    self.queue.remove(me)
                raise
        await self.sleep_as_head()

    async def sleep_as_head(self) -> None:
        try:
            await trio.sleep_until(self.next_at)
            self.next_at = max(self.next_at, trio.current_time()) + 1
        finally:
            self.pass_baton()

    def pass_baton(self) -> None:
        self.head = self.queue.popleft() if self.queue else None
        if self.head is not None:
            self.head.event.set()

    def check(self) -> None:
        assert self.head is not None or not self.queue, "somebody waits and nobody is the head"


class KeptBaton(Ticker):
    """Bug: a head that is cancelled in its sleep keeps the baton."""

    async def sleep_as_head(self) -> None:
        await trio.sleep_until(self.next_at)
        self.next_at = max(self.next_at, trio.current_time()) + 1
        self.pass_baton()


class NotAdmittedError(Exception):
    """The breaker is half-open and its probe is out."""


class Breaker:
    """A breaker that is half-open for ever and admits one probe at a time; correct."""

    def __init__(self) -> None:
        self.probing = False
        self.verdicts: list[bool] = []

    async def call(self, fn: Callable[[], Awaitable[T]]) -> T:
        if self.probing:
            raise NotAdmittedError
        self.probing = True
        try:
            result = await fn()
        except Exception:
            self.verdicts.append(False)
            raise
        else:
            self.verdicts.append(True)
            return result
        finally:
            self.probing = False


class LeakedProbe(Breaker):
    """Bug: a cancelled probe is neither a success nor a failure, and its slot is never given back."""

    async def call(self, fn: Callable[[], Awaitable[T]]) -> T:
        if self.probing:
            raise NotAdmittedError
        self.probing = True
        try:
            result = await fn()
        except Exception:
            self.verdicts.append(False)
            self.probing = False
            raise
        self.verdicts.append(True)
        self.probing = False
        return result


class Connection:
    """A resource that somebody must close."""

    def __init__(self, opened: list[Connection]) -> None:
        self.is_open = True
        opened.append(self)

    def close(self) -> None:
        self.is_open = False


async def hedge(connect: Callable[[], Awaitable[Connection]], *, delay: float) -> Connection:
    """Connect, and again after `delay` if that takes long; the first to arrive is returned. Correct."""
    return await _hedge(connect, delay=delay, guarded=True)


async def hedge_without_guard(connect: Callable[[], Awaitable[Connection]], *, delay: float) -> Connection:
    """Bug: cancelled after a connection has won and before it is returned, nobody closes it."""
    return await _hedge(connect, delay=delay, guarded=False)


async def _hedge(connect: Callable[[], Awaitable[Connection]], *, delay: float, guarded: bool) -> Connection:
    winners: list[Connection] = []

    async def attempt(nursery: trio.Nursery) -> None:
        connection = await connect()
        if winners:
            connection.close()
            return
        winners.append(connection)
        nursery.cancel_scope.cancel(reason="hedge: won")

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt, nursery)
            await trio.sleep(delay)
            nursery.start_soon(attempt, nursery)
    except BaseException:
        for connection in winners if guarded else ():
            connection.close()
        raise
    return winners[0]


async def patient_sleep(seconds: float) -> None:
    """Swallows nothing: the twin of swallowing_sleep."""
    await trio.sleep(seconds)


async def swallowing_sleep(seconds: float) -> None:
    """Bug: returns as if nothing had happened when it is cancelled."""
    try:
        await trio.sleep(seconds)
    except BaseException:
        return


async def polling_sleep(seconds: float) -> None:
    """Polls, and moves the clock as it does: the twin of spinning_sleep."""
    for _ in range(4):
        await trio.sleep(seconds / 4)


async def spinning_sleep(seconds: float) -> None:
    """Bug: tries again when it is cancelled, so it spins through checkpoints while virtual time stands still."""
    naps = 0
    while naps < 4:
        try:
            await trio.sleep(seconds / 4)
        except BaseException:
            continue
        naps += 1


class Turnstile:
    """Two tasks meet: each waits until the other has come. A cancelled one tells the other; correct."""

    def __init__(self) -> None:
        self.met = trio.Event()
        self.waiting = 0

    async def meet(self) -> None:
        self.waiting += 1
        if self.waiting == 2:
            self.met.set()
        try:
            await self.met.wait()
        except BaseException:
            self.give_up()
            raise

    def give_up(self) -> None:
        self.met.set()


class SilentTurnstile(Turnstile):
    """Bug: a cancelled one leaves without a word, and nothing ever wakes the other."""

    def give_up(self) -> None:
        self.waiting -= 1
