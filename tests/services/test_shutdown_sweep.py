"""open_shutdown: cancelled at any moment, nobody outlives it, nothing is swallowed, and no waiter is forgotten."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

import pytest
import trio

from tests.services._drainables import Door
from trioresil import Bulkhead, Shutdown, open_shutdown
from trioresil._services import shutdown as module
from trioresil.testing import Sweep, SweepFailure, cancellation_sweep


class House:
    """A service with a door, who is inside of it, and the invariants."""

    def __init__(self, sweep: Sweep, *, grace: float = 4) -> None:
        self.sweep = sweep
        self.bulkhead = Bulkhead(2)
        self.manager = open_shutdown(signals=(), lead=2, grace=grace)
        self.shutdown: Shutdown | None = None
        self.left = trio.Event()
        self.body_ended = self.came_out = False
        sweep.when_quiet(self.check)

    def check(self) -> None:
        if self.shutdown is None:
            return
        statistics, now = self.shutdown.statistics(), trio.current_time()
        assert self.bulkhead.statistics().closed == self.shutdown._is_closed
        if statistics.phase == "lead":
            assert now < statistics.closes_at
        if statistics.phase == "draining":
            assert statistics.closes_at <= now < statistics.cancels_at
            assert statistics.running or not self.bulkhead.statistics().inside
        assert statistics.phase != "cancelled"  # nobody here takes time to end

    async def call(self, seconds: float) -> None:
        if not self.bulkhead.statistics().closed:
            async with self.bulkhead:
                await trio.sleep(seconds)

    async def serve(self) -> None:
        """Be the body: accept calls until admission is closed, and end when they are done."""
        try:
            async with self.manager as self.shutdown:
                self.shutdown.register(self.bulkhead)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.accept, nursery)
                    await self.shutdown.wait()
                self.body_ended = True
            self.came_out = True
        finally:
            self.left.set()

    async def accept(self, nursery: trio.Nursery) -> None:
        for seconds in (0.5, 1, 3, 1, 0.25, 9):
            nursery.start_soon(self.call, seconds)
            await trio.sleep(0.5)

    async def ask(self) -> None:
        await trio.sleep(1)
        if self.shutdown is not None and not self.left.is_set():
            self.shutdown.request()

    def check_way_out(self, victim: trio.CancelScope) -> None:
        """A body that was cancelled from outside does not go on behind its block."""
        assert not (victim.cancel_called and self.came_out and not self.body_ended)

    def finish(self) -> None:
        statistics = self.bulkhead.statistics()
        assert (statistics.inside, statistics.waiting) == (0, 0)
        assert not self.manager._shutdown or self.manager._shutdown.phase == "ended"


async def whole_service(sweep: Sweep) -> None:
    house = House(sweep)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.ask)
        with sweep.victim() as scope:
            await house.serve()
        house.check_way_out(scope)
        nursery.cancel_scope.cancel()
    house.finish()


async def service_that_is_cut_off(sweep: Sweep) -> None:
    house = House(sweep, grace=0.5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.ask)
        with sweep.victim() as scope:
            await house.serve()
        house.check_way_out(scope)
    house.finish()
    assert trio.current_time() <= 3.5


def one_of_those_who_wait(wait: Callable[[Shutdown], Awaitable[None]]) -> Callable[[Sweep], Awaitable[None]]:
    async def scenario(sweep: Sweep) -> None:
        done = []

        async def other(name: str) -> None:
            assert house.shutdown is not None
            await wait(house.shutdown)
            done.append(name)

        async def victim() -> None:
            with sweep.victim():
                await other("victim")

        house = House(sweep, grace=8)
        async with trio.open_nursery() as nursery, house.manager as house.shutdown:
            house.shutdown.register(house.bulkhead, Door("slow", 1))
            nursery.start_soon(other, "a")
            nursery.start_soon(victim)
            nursery.start_soon(other, "b")
            nursery.start_soon(house.call, 3.5)
            nursery.start_soon(house.ask)
            await house.shutdown.wait_drained()
            house.shutdown.register(Door("late", 0.5))
            await trio.sleep(2)
        assert {"a", "b"} <= {*done}
        assert trio.current_time() == 6

    return scenario


async def call_inside(sweep: Sweep) -> None:
    """One call is cancelled; the drain then ends with the other."""
    house = House(sweep)

    async def victim() -> None:
        with sweep.victim():
            await house.call(5)

    async with house.manager as house.shutdown, trio.open_nursery() as nursery:
        house.shutdown.register(house.bulkhead)
        nursery.start_soon(victim)
        nursery.start_soon(house.call, 4)
        nursery.start_soon(house.ask)
        await house.shutdown.wait_drained()
        assert not house.bulkhead.statistics().inside
        assert trio.current_time() in (4, 5)
    assert house.shutdown.report.clean


@pytest.mark.slow
@pytest.mark.parametrize(
    "scenario",
    [
        whole_service,
        service_that_is_cut_off,
        one_of_those_who_wait(Shutdown.wait),
        one_of_those_who_wait(Shutdown.wait_drained),
        call_inside,
    ],
    ids=["whole", "cut off", "wait", "wait_drained", "call"],
)
def test_cancelled_at_any_moment(scenario: Callable[[Sweep], Awaitable[None]]) -> None:
    report = cancellation_sweep(scenario)
    assert report.cancelled > 5


def test_sweep_notices_an_exit_that_swallows_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    async def swallow(self: open_shutdown, kind: object, error: BaseException | None, traceback: object) -> bool:
        assert self._shutdown is not None
        self._shutdown._end()
        with contextlib.suppress(BaseException):
            await self._shutdown._tasks.__aexit__(None, None, None)
        return True

    monkeypatch.setattr(open_shutdown, "__aexit__", swallow)
    with pytest.raises(SweepFailure):
        cancellation_sweep(whole_service, seeds=[0])


def test_sweep_notices_waiters_that_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async def watch(self: Shutdown, drain: module._Drain) -> None:
        await drain.drainable.wait_drained()
        drain.settled_at = trio.current_time()

    monkeypatch.setattr(Shutdown, "_watch", watch)
    with pytest.raises(SweepFailure):
        cancellation_sweep(one_of_those_who_wait(Shutdown.wait_drained), seeds=[0])
