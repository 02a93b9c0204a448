"""open_pool: cancelled at any moment, no slot and no connection is lost, none is lent twice, and nobody waits for nothing."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from tests.services._connections import Connection, Peer
from trioresil import Pool, PoolClosedError, PoolFullError, open_pool
from trioresil.testing import Sweep, SweepFailure, cancellation_sweep


class House:
    """A pool, who is inside, and the invariants."""

    def __init__(self, sweep: Sweep, peer: Peer, limiter: trio.CapacityLimiter | None = None, **options: Any) -> None:
        self.sweep = sweep
        self.peer = peer
        self.limiter = limiter
        self.max_size = options.setdefault("max_size", 2)
        self.manager = open_pool(
            peer.connect, close=peer.close, limiter=limiter, rng=random.Random(sweep.moment.seed), **options
        )
        self.pool: Pool[Connection] | None = None
        self.inside = 0
        self.visits: list[str] = []
        self.rejected: list[str] = []
        sweep.when_quiet(self.check)

    def check(self) -> None:
        if self.pool is None:
            return
        statistics, own = self.pool.statistics(), self.pool._own
        held = statistics.leased + statistics.connecting + statistics.closing
        assert held + statistics.idle == self.peer.open <= self.max_size
        assert statistics.waiting == len(self.pool._queue)
        assert not (own.available_tokens and own.statistics().tasks_waiting)
        if self.limiter is None:
            assert held == own.borrowed_tokens or not self.pool._is_open
            assert not (statistics.idle and statistics.waiting)
        elif self.limiter.available_tokens:
            assert not statistics.waiting

    async def visit(self, name: str, seconds: float, error: Exception | None = None) -> None:
        assert self.pool is not None
        try:
            async with self.pool.connection() as connection:
                with connection:
                    self.visits.append(name)
                    self.inside += 1
                    try:
                        await trio.sleep(seconds)
                        if error is not None:
                            raise error
                    finally:
                        self.inside -= 1
        except (PoolFullError, PoolClosedError):
            self.rejected.append(name)
        except (ValueError, OSError) as exc:
            if exc is not error and exc not in self.peer.raised:
                raise

    async def victim(self, seconds: float = 1, error: Exception | None = None) -> None:
        with self.sweep.victim():
            await self.visit("victim", seconds, error)

    async def __aenter__(self) -> House:
        self.pool = await self.manager.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> bool:
        return await self.manager.__aexit__(*exc)

    def finish(self) -> None:
        assert self.pool is not None
        statistics = self.pool.statistics()
        assert self.inside == statistics.leased == statistics.idle == statistics.connecting == statistics.closing == 0
        assert self.peer.open == 0
        assert self.pool._own.borrowed_tokens == 0
        assert self.limiter is None or self.limiter.borrowed_tokens == 0
        assert not self.pool._scopes
        assert not self.pool._is_busy()


async def queue(sweep: Sweep) -> None:
    house = House(sweep, Peer(connect=0.5, close=0.25))
    async with house, trio.open_nursery() as nursery:
        nursery.start_soon(house.visit, "a", 1)
        nursery.start_soon(house.visit, "b", 0.5)
        nursery.start_soon(house.victim)
        nursery.start_soon(house.visit, "c", 1)
        nursery.start_soon(house.visit, "d", 0)
    assert {*house.visits} >= {*"abcd"}
    house.finish()


async def impatient(sweep: Sweep) -> None:
    house = House(sweep, Peer(connect=0.5), max_size=1, max_wait=1.5)
    async with house, trio.open_nursery() as nursery:  # a slot becomes free in the instants in which waits end
        nursery.start_soon(house.visit, "a", 1)
        nursery.start_soon(house.victim, 0.5)
        nursery.start_soon(house.visit, "b", 0.5)
    assert {*house.visits, *house.rejected} >= {*"ab"}
    house.finish()


async def shared(sweep: Sweep) -> None:
    house = House(sweep, Peer(connect=0.25, close=0.25), trio.CapacityLimiter(1), max_wait=3)

    async def other() -> None:
        assert house.limiter is not None
        async with house.limiter:
            await trio.sleep(0.5)

    async with house, trio.open_nursery() as nursery:
        nursery.start_soon(other)
        nursery.start_soon(house.visit, "a", 1)
        nursery.start_soon(house.victim, 0.5)
        nursery.start_soon(house.visit, "b", 0.5)
        nursery.start_soon(other)
    assert {*house.visits, *house.rejected} >= {*"ab"}
    house.finish()


async def dial_fails(sweep: Sweep) -> None:
    peer = Peer(connect=0.5)
    peer.fail("connect", OSError(1), OSError(2))
    house = House(sweep, peer, max_size=1, min_idle=1)
    async with house, trio.open_nursery() as nursery:
        nursery.start_soon(house.visit, "a", 1)
        nursery.start_soon(house.victim)
        nursery.start_soon(house.visit, "b", 1)
        await trio.sleep(9)
    house.finish()


async def unsound(sweep: Sweep) -> None:
    peer = Peer(reset=0.5, check=0.5, close=0.25)
    house = House(sweep, peer, reset=peer.reset, check=peer.check)
    async with house:
        await house.visit("first", 0, ValueError())
        peer.answers = [True, False, True, False]
        peer.fail("reset", OSError(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.visit, "a", 1, ValueError())
            nursery.start_soon(house.victim, 1, ValueError())
            nursery.start_soon(house.visit, "b", 1, ValueError())
            nursery.start_soon(house.visit, "c", 1)
    house.finish()


async def ages(sweep: Sweep) -> None:
    house = House(sweep, Peer(connect=0.25, close=0.25), min_idle=1, max_idle_time=1, max_lifetime=2)
    async with house, trio.open_nursery() as nursery:
        for name, seconds in {"a": 1, "b": 2}.items():
            nursery.start_soon(house.visit, name, seconds)
        nursery.start_soon(house.victim, 2.5)
        await trio.sleep(4)
        await house.visit("c", 0.5)
    house.finish()


async def body(sweep: Sweep) -> None:
    """The victim is the pool's opener; others lease while it comes and goes."""
    house = House(sweep, Peer(connect=0.25, close=0.25), min_idle=1)

    async def guest(name: str) -> None:
        await trio.sleep(0.5)
        if house.pool is not None:
            await house.visit(name, 1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(guest, "a")
        nursery.start_soon(guest, "b")
        nursery.start_soon(guest, "c")
        with sweep.victim():
            async with house:
                await house.visit("own", 0.75)
    if house.pool is not None:
        house.finish()


async def drain(sweep: Sweep) -> None:
    house, drained = House(sweep, Peer(connect=0.25)), False

    async def victim() -> None:
        nonlocal drained
        assert house.pool is not None
        with sweep.victim():
            await house.pool.wait_drained()
            drained = True

    async with house:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.visit, "a", 1)
            nursery.start_soon(house.visit, "b", 1)
            nursery.start_soon(house.visit, "c", 1)
            await trio.lowlevel.checkpoint()
            nursery.start_soon(victim)
        assert house.pool is not None
        await house.pool.wait_drained()
    assert drained is not sweep.victim_cancelled
    house.finish()


Scenario = Callable[[Sweep], Awaitable[None]]
SCENARIOS: list[Scenario] = [queue, impatient, shared, dial_fails, unsound, ages, body, drain]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_cancelled_at_any_moment_leaves_no_trace(scenario: Scenario) -> None:
    assert cancellation_sweep(scenario, seeds=range(4)).cancelled > 0


# --- the net itself: bugs that it must find --------------------------------------------------------------------------


def leaks_the_slot_of_a_cancelled_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lend(self: Any, lease: Any) -> Any:
        held: list[Any] = []
        await self._get_slots(lease, held)
        return await self._take_usable() or await self._connect()

    monkeypatch.setattr(Pool, "_lend", lend)


def loses_the_connection_whose_check_was_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def take(self: Any) -> Any:
        while (kept := self._stock.lease()) is not None:
            wrong = await self._what_is_wrong(kept)
            if wrong is None:
                return kept
            await self._discard(kept, wrong)
        return None

    monkeypatch.setattr(Pool, "_take_usable", take)


def keeps_the_connection_of_a_cancelled_block(monkeypatch: pytest.MonkeyPatch) -> None:
    discard = Pool._discard

    async def keep(self: Any, kept: Any, reason: Any) -> None:
        if reason == "discarded" and self._is_open:
            await trio.lowlevel.checkpoint()  # a close without a shield
        await discard(self, kept, reason)

    monkeypatch.setattr(Pool, "_discard", keep)


def forgets_the_shared_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    def release(self: Any, lease: Any, held: Any) -> None:
        for limiter in held[:1]:
            limiter.release_on_behalf_of(lease)

    monkeypatch.setattr(Pool, "_release", release)


def forgets_to_wake_who_waits_for_the_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    def release(self: Any, lease: Any, held: Any) -> None:
        for limiter in held:
            limiter.release_on_behalf_of(lease)

    monkeypatch.setattr(Pool, "_release", release)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "scenario"),
    [
        (leaks_the_slot_of_a_cancelled_connect, queue),
        (loses_the_connection_whose_check_was_cancelled, unsound),
        (keeps_the_connection_of_a_cancelled_block, queue),
        (forgets_the_shared_slot, shared),
        (forgets_to_wake_who_waits_for_the_drain, drain),
    ],
)
def test_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(SweepFailure):
        cancellation_sweep(scenario)
