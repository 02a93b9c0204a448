"""Bulkhead: cancelled at any moment, no permit is lost, none is given twice, and nobody waits beside a free one."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

import trioresil
from trioresil import Bulkhead, BulkheadFullError, Pipeline
from trioresil.testing import Sweep, cancellation_sweep

Work = Callable[[], Awaitable[None]]


async def acquire(bulkhead: Bulkhead, work: Work) -> None:
    await bulkhead.acquire()
    try:
        await work()
    finally:
        bulkhead.release()


async def block(bulkhead: Bulkhead, work: Work) -> None:
    async with bulkhead:
        await work()


async def call(bulkhead: Bulkhead, work: Work) -> None:
    await bulkhead.call(work)


async def decorated(bulkhead: Bulkhead, work: Work) -> None:
    await bulkhead(work)()


async def bound(bulkhead: Bulkhead, work: Work) -> None:
    await bulkhead.bind(work)()


async def piped(bulkhead: Bulkhead, work: Work) -> None:
    await Pipeline(trioresil.Timeout(1000), bulkhead).call(work)


Form = Callable[[Bulkhead, Work], Awaitable[None]]
FORMS: list[Form] = [acquire, block, call, decorated, bound, piped]


class House:
    """A bulkhead, who is inside, and the invariants."""

    def __init__(self, sweep: Sweep, limiter: trio.CapacityLimiter, **options: Any) -> None:
        self.sweep = sweep
        self.limiter = limiter
        self.bulkhead = Bulkhead(limiter, **options)
        self.inside = 0
        self.by_users = 0
        self.visits: list[str] = []
        self.rejected: list[str] = []
        sweep.when_quiet(self.check)

    def check(self) -> None:
        statistics = self.bulkhead.statistics()
        assert statistics.inside == self.inside
        assert statistics.borrowed == self.inside + self.by_users == self.limiter.borrowed_tokens
        assert statistics.waiting == len(self.bulkhead._queue)
        assert not (self.limiter.available_tokens > 0 and self.limiter.statistics().tasks_waiting)

    async def visit(self, name: str, seconds: float, form: Form = call) -> None:
        async def work() -> None:
            self.visits.append(name)
            self.inside += 1
            assert self.inside + self.by_users <= max(self.limiter.total_tokens, 2)
            try:
                await trio.sleep(seconds)
            finally:
                self.inside -= 1

        try:
            await form(self.bulkhead, work)
        except BulkheadFullError:
            self.rejected.append(name)

    async def user_code(self, seconds: float) -> None:
        async with self.limiter:
            self.by_users += 1
            await trio.sleep(seconds)
            self.by_users -= 1

    async def victim(self, form: Form) -> None:
        with self.sweep.victim():
            await self.visit("victim", 1, form)

    def finish(self, others: set[str]) -> None:
        assert self.inside == self.limiter.borrowed_tokens == 0
        assert self.bulkhead.statistics().waiting == 0
        assert not self.bulkhead._block_permits
        came = {*self.visits, *self.rejected}
        assert came >= others
        assert len(self.visits) + len(self.rejected) == len(came)
        assert "victim" in came or self.sweep.victim_cancelled


async def crowd(form: Form, sweep: Sweep) -> None:
    house = House(sweep, trio.CapacityLimiter(2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.visit, "a", 1, form)
        nursery.start_soon(house.visit, "b", 0.5, form)
        nursery.start_soon(house.victim, form)
        nursery.start_soon(house.visit, "c", 2, form)
        nursery.start_soon(house.user_code, 1)
    house.finish({"a", "b", "c"})
    assert not house.rejected


async def impatient(form: Form, sweep: Sweep) -> None:
    house = House(sweep, trio.CapacityLimiter(1), max_wait=1, max_waiting=2)
    async with trio.open_nursery() as nursery:  # permits become free in the instants of the deadlines
        nursery.start_soon(house.visit, "a", 1, form)
        nursery.start_soon(house.visit, "b", 1, form)
        nursery.start_soon(house.victim, form)
        nursery.start_soon(house.visit, "c", 0.5, form)
    house.finish({"a", "b", "c"})
    assert house.bulkhead.statistics().rejected >= len(house.rejected)


async def changes(form: Form, sweep: Sweep) -> None:
    house = House(sweep, trio.CapacityLimiter(2))
    drained = False

    async def meddle() -> None:
        for limit in (1, 0, 2, 1):
            await trio.sleep(0.75)
            house.bulkhead.limit = limit

    async def drain() -> None:
        nonlocal drained
        await trio.sleep(1.25)
        house.bulkhead.close_admission()
        await house.bulkhead.wait_drained()
        assert not house.inside
        assert not house.bulkhead._queue
        drained = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(meddle)
        nursery.start_soon(house.visit, "a", 1, form)
        nursery.start_soon(house.victim, form)
        nursery.start_soon(house.visit, "b", 1, form)
        nursery.start_soon(house.visit, "c", 1, form)
        nursery.start_soon(drain)
    house.finish({"a", "b", "c"})
    assert drained


async def nested(form: Form, sweep: Sweep) -> None:
    bulkhead = Bulkhead(2)

    async def both() -> None:
        await form(bulkhead, functools.partial(form, bulkhead, functools.partial(trio.sleep, 1)))

    async def victim() -> None:
        with sweep.victim():
            await both()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(victim)
        nursery.start_soon(form, bulkhead, functools.partial(trio.sleep, 0.5))
    assert bulkhead.statistics().borrowed == 0
    await both()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scenario", [crowd, impatient, changes, nested])
def test_cancelled_visitor_leaves_no_trace(scenario: Callable[..., Awaitable[None]], form: Form) -> None:
    report = cancellation_sweep(functools.partial(scenario, form), seeds=range(4))
    assert report.cancelled > 0


async def cancelled_drain(sweep: Sweep) -> None:
    house = House(sweep, trio.CapacityLimiter(1))
    drained = False

    async def victim() -> None:
        nonlocal drained
        with sweep.victim():
            await house.bulkhead.wait_drained()
            drained = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.visit, "a", 1)
        nursery.start_soon(house.visit, "b", 1)
        nursery.start_soon(victim)
    assert drained is not sweep.victim_cancelled
    await house.bulkhead.wait_drained()


def test_cancelled_drain_leaves_no_trace() -> None:
    cancellation_sweep(cancelled_drain, seeds=range(6))
