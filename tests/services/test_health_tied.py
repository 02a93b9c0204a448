"""A health monitor and what is tied to a check: a circuit, isolated while the check is unhealthy, and a pool."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trioresil
from tests._circuit_breaker import CLOSED, HALF_OPEN, ISOLATED, OPEN, fail, open_circuit, rejection, succeed
from tests.services._connections import Connection, Peer
from tests.services._health import Service, at_once
from trioresil import CircuitBreaker, ConsecutiveFailures, HealthMonitor, Pool, open_health_monitor, open_pool
from trioresil._policies.circuit_breaker import checked_breaker
from trioresil.testing import Recorder

DOWN = OSError("down")


def opened(**options: Any) -> open_health_monitor:
    return open_health_monitor(**{"interval": 8, "rng": at_once(), **options})


# --- when a circuit is isolated --------------------------------------------------------------------------------------


async def test_the_circuit_is_isolated_once_for_each_unhealthy_spell(autojump_clock: MockClock) -> None:
    breaker = CircuitBreaker()
    service = Service(None, None, *[DOWN] * 7, None, None, DOWN, DOWN, DOWN)
    seen = []
    async with opened() as health, health.subscribe() as changes:
        health.watch("api", service.check, breaker=breaker)
        async for _ in changes:
            seen.append((trio.current_time(), breaker.statistics().isolations))
            if len(seen) == 4:
                break
        await trio.sleep(1)
    assert seen == [(2, 0), (14, 1), (56, 0), (68, 1)]
    assert breaker.state is CLOSED  # released on leaving


async def test_calls_of_others_are_rejected_meanwhile(autojump_clock: MockClock) -> None:
    breaker, service = CircuitBreaker(), Service()
    service.error = DOWN
    async with opened() as health:
        health.watch("api", service.check, breaker=breaker, fall=1)
        await trio.sleep(1)
        assert isinstance(await rejection(breaker), trioresil.CircuitIsolatedError)


async def test_degraded_releases_it_too(autojump_clock: MockClock) -> None:
    breaker, service = CircuitBreaker(), Service(DOWN, takes=1)
    async with opened() as health:
        health.watch("api", service.check, breaker=breaker, rise=1, fall=1, degraded_above=0.5)
        await trio.sleep(2)
        assert breaker.state is ISOLATED
        await health.wait_healthy()
        assert health["api"].state is trioresil.HealthState.DEGRADED
        assert breaker.state is CLOSED


async def test_unwatch_releases_in_the_same_step(autojump_clock: MockClock) -> None:
    breaker, service = CircuitBreaker(), Service()
    service.error = DOWN
    async with opened() as health:
        health.watch("api", service.check, breaker=breaker, fall=1)
        await trio.sleep(1)
        assert breaker.state is ISOLATED
        health.unwatch("api")
        assert breaker.state is CLOSED
        await trio.sleep(20)
        assert breaker.state is CLOSED


@pytest.mark.parametrize("how", ["clean", "error", "cancelled"])
async def test_leaving_the_monitor_releases_before_checks_have_ended(autojump_clock: MockClock, how: str) -> None:
    breaker = CircuitBreaker()
    states = []

    class Ending(Exception):
        pass

    async def slow_to_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            states.append(breaker.state)

    sick = Service()
    sick.error = DOWN
    with trio.CancelScope() as scope:
        try:
            async with opened(timeout=100) as health:
                health.watch("sick", sick.check, breaker=breaker, fall=1)
                await trio.sleep(1)
                health.watch("slow", slow_to_end, interval=1)
                await trio.sleep(5)
                assert breaker.state is ISOLATED
                if how == "error":
                    raise Ending
                if how == "cancelled":
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
        except Ending:
            pass
    assert breaker.state is CLOSED
    assert states == [CLOSED] or how == "cancelled"


async def test_two_checks_of_one_circuit_must_both_be_well(autojump_clock: MockClock) -> None:
    breaker, one, two = CircuitBreaker(), Service(), Service()
    one.error = two.error = DOWN
    async with opened() as health:
        health.watch("one", one.check, breaker=breaker, rise=1, fall=1)
        health.watch("two", two.check, breaker=breaker, rise=1, fall=1)
        await trio.sleep(5)
        assert breaker.statistics().isolations == 2
        one.error = None
        await health.wait_healthy("one")
        assert breaker.state is ISOLATED
        two.error = None
        await health.wait_healthy("two")
        assert breaker.state is CLOSED


async def test_the_circuit_comes_back_as_it_would_have_been_and_who_waits_is_woken(autojump_clock: MockClock) -> None:
    breaker, service = CircuitBreaker(open_for=20), Service(DOWN)
    woken = []
    async with opened() as health, trio.open_nursery() as nursery:
        await open_circuit(breaker)
        health.watch("api", service.check, breaker=breaker, rise=1, fall=1)
        await trio.sleep(1)
        assert breaker.state is ISOLATED
        await trio.sleep(5)
        assert breaker.statistics().remaining == 14  # the open time goes on

        async def wait() -> None:
            await breaker.wait_admittable()
            woken.append(trio.current_time())

        nursery.start_soon(wait)
        await health.wait_healthy()
        assert (trio.current_time(), breaker.state) == (8, OPEN)
        await trio.sleep(30)
    assert woken == [20]


# --- how the check itself gets through -------------------------------------------------------------------------------


FORMS = ["call", "decorator", "block", "admit", "pipeline", "in a child task"]


async def through(breaker: CircuitBreaker, form: str, fn: Any) -> None:
    if form == "call":
        await breaker.call(fn)
    elif form == "decorator":
        await breaker(fn)()
    elif form == "block":
        async with breaker:
            await fn()
    elif form == "admit":
        with breaker.admit():
            await fn()
    elif form == "pipeline":
        await trioresil.Pipeline(trioresil.Timeout(100), breaker).call(fn)
    else:
        error: Exception | None = None

        async def child() -> None:
            nonlocal error
            try:
                await breaker.call(fn)
            except Exception as exc:
                error = exc

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
        if error is not None:
            raise error


@pytest.mark.parametrize("form", FORMS)
async def test_a_check_through_its_own_guard_heals_it(autojump_clock: MockClock, form: str) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(100))
    service = Service(None, None, DOWN, DOWN, DOWN, DOWN, None, None)
    states = []
    async with opened() as health, health.subscribe() as changes:
        health.watch("api", lambda: through(breaker, form, service.check), breaker=breaker)
        async for change in changes:
            states.append((trio.current_time(), change.status.state.value, breaker.state))
            if len(states) == 3:
                break
    assert states == [(2, "healthy", CLOSED), (14, "unhealthy", ISOLATED), (32, "healthy", CLOSED)]
    assert breaker.statistics().rejected == 0
    assert breaker.statistics().inside == 0


@pytest.mark.parametrize("form", FORMS)
async def test_while_the_circuit_is_closed_a_check_is_ordinary_traffic_and_counts(
    autojump_clock: MockClock, form: str
) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(2), open_for=1000)
    service = Service(DOWN, DOWN)
    async with opened() as health:
        health.watch("api", lambda: through(breaker, form, service.check), breaker=breaker, fall=3)
        await trio.sleep(1)
        assert breaker.statistics().trip == "1/2 consecutive failures"
        await trio.sleep(2)
        assert breaker.state is OPEN
        await health.wait_healthy()  # the next ones were let in, without a verdict
        assert (breaker.state, breaker.statistics().opened) == (OPEN, 1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("error", [None, DOWN])
async def test_in_a_half_open_circuit_it_takes_no_slot_and_gives_no_verdict(
    autojump_clock: MockClock, form: str, error: Exception | None
) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(1), open_for=4, probes=1)
    service = Service(takes=2)
    service.error = error
    async with opened() as health:
        await open_circuit(breaker)
        await trio.sleep(4)
        health.watch("api", lambda: through(breaker, form, service.check), breaker=breaker, fall=100)
        await trio.sleep(1)
        assert (service.inside, breaker.state, breaker.statistics().probes_out) == (1, HALF_OPEN, 0)
        await trio.sleep(2)
        assert (service.ended, breaker.state) == (1, HALF_OPEN)
        await breaker.call(succeed)  # the slot is free, and its verdict is what counts
        assert breaker.state is CLOSED


@pytest.mark.parametrize("form", FORMS)
async def test_in_an_isolated_circuit_it_gives_no_verdict_on_the_state_underneath(
    autojump_clock: MockClock, form: str
) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(3))
    service = Service(*[DOWN] * 9)
    async with opened() as health:
        health.watch("api", lambda: through(breaker, form, service.check), breaker=breaker, rise=1, fall=2)
        await health.wait_healthy()
        assert (breaker.state, breaker.statistics().opened) == (CLOSED, 0)
        assert breaker.statistics().trip == "2/3 consecutive failures"  # those before it was isolated


async def test_a_check_beside_a_probe_does_not_disturb_it(autojump_clock: MockClock) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(1), open_for=4)
    service = Service()
    service.error = DOWN
    async with opened() as health, trio.open_nursery() as nursery:
        await open_circuit(breaker)
        await trio.sleep(4)

        async def probe() -> None:
            await breaker.call(trio.sleep, 2.5)

        nursery.start_soon(probe)
        await trio.sleep(1)
        health.watch("api", lambda: breaker.call(service.check), breaker=breaker, fall=100)
        await trio.sleep(1)
        assert (service.ended, breaker.statistics().probes_out) == (1, 1)
        await trio.sleep(0.75)
        assert breaker.state is CLOSED


async def test_only_the_check_of_the_tied_circuit_gets_by(autojump_clock: MockClock) -> None:
    tied, other = CircuitBreaker(name="tied"), CircuitBreaker(name="other")
    with other.isolated(), tied.isolated():
        async with opened() as health:
            health.watch("api", lambda: tied.call(other.call, succeed), breaker=tied)
            health.watch("loose", lambda: tied.call(succeed))
            await trio.sleep(7)
            for name, refused in (("api", "other"), ("loose", "tied")):
                error = health[name].error
                assert isinstance(error, trioresil.CircuitIsolatedError)
                assert error.policy == refused
            with pytest.raises(trioresil.CircuitIsolatedError):
                await tied.call(succeed)  # as the body's own task, and that of a watched function, is no check
    assert checked_breaker.get() is None


async def test_checks_of_one_monitor_know_their_own_circuit_only(autojump_clock: MockClock) -> None:
    breakers = {name: CircuitBreaker(name=name) for name in "ab"}
    seen: dict[str, object] = {}

    async with opened() as health:

        async def check(name: str) -> None:
            seen[name] = checked_breaker.get()

        async def check_a() -> None:
            health.watch("b", lambda: check("b"), breaker=breakers["b"]) if "b" not in health else None
            await check("a")

        health.watch("a", check_a, breaker=breakers["a"])
        health.watch("c", lambda: check("c"))
        await trio.sleep(20)
    assert seen == {**breakers, "c": None}


async def test_a_dry_running_circuit_does_not_count_the_check_as_a_rejection(autojump_clock: MockClock) -> None:
    breaker = CircuitBreaker(enforce=False)
    recorder = Recorder()
    with trioresil.instrument(recorder), breaker.isolated():
        async with opened() as health:
            health.watch("api", lambda: breaker.call(succeed), breaker=breaker)
            await health.wait_healthy()
    assert recorder.of(trioresil.CallRejected) == []


async def test_the_check_of_an_open_circuit_does_not_begin_the_probing(autojump_clock: MockClock) -> None:
    recorder = Recorder()
    breaker = CircuitBreaker(trip=ConsecutiveFailures(1), open_for=1)
    with trioresil.instrument(recorder):
        async with opened() as health:
            await open_circuit(breaker)
            await trio.sleep(2)
            health.watch("api", lambda: breaker.call(succeed), breaker=breaker)
            await health.wait_healthy()
    assert recorder.of(trioresil.CircuitHalfOpened) == []
    with pytest.raises(OSError, match="down"):
        await breaker.call(fail)  # the first probe


# --- pools -----------------------------------------------------------------------------------------------------------


async def use(pool: Pool[Connection], seconds: float = 0) -> int:
    async with pool.connection() as connection:
        with connection:
            await trio.sleep(seconds)
            return connection.number


async def test_an_unhealthy_checks_pool_lends_none_of_its_connections_again(autojump_clock: MockClock) -> None:
    peer, service = Peer(), Service(None, DOWN, DOWN, None)
    async with open_pool(peer.connect, close=peer.close) as pool, opened() as health, trio.open_nursery() as nursery:
        health.watch("db", service.check, pool=pool, rise=1, fall=1)
        nursery.start_soon(use, pool, 9)
        nursery.start_soon(use, pool, 1)
        await trio.sleep(7)
        assert (pool.statistics().leased, pool.statistics().idle) == (1, 1)
        await trio.sleep(1.5)  # it has become unhealthy at 8
        assert (pool.statistics().leased, pool.statistics().idle) == (1, 0)
        assert await use(pool) == 2
        await trio.sleep(1)
        assert (pool.statistics().leased, pool.statistics().idle) == (0, 1)
        await trio.sleep(7)  # unhealthy still: it is told once
        assert await use(pool) == 2
        await health.wait_healthy()
        assert await use(pool) == 2


async def test_a_retired_connection_is_closed_at_once_when_idle_and_when_it_comes_back(
    autojump_clock: MockClock,
) -> None:
    peer = Peer()
    async with open_pool(peer.connect, close=peer.close, min_idle=1) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(use, pool, 4)
        await trio.sleep(1)
        assert peer.open == 2
        pool.retire()
        await trio.sleep(1)
        assert pool.statistics().idle == 1  # min_idle is kept by a new one
        assert [name for name, *_ in peer.log] == ["connect", "connect", "close", "connect"]
        await trio.sleep(2.5)
        assert [name for name, *_ in peer.log][4:] == ["close"]


async def test_a_retired_connection_is_not_lent_in_the_same_step(autojump_clock: MockClock) -> None:
    peer = Peer()
    async with open_pool(peer.connect, close=peer.close) as pool:
        assert await use(pool) == 0
        pool.retire()
        assert await use(pool) == 1
        pool.retire()
        pool.retire()
        await trio.sleep(1)
        assert peer.open == 0


async def test_retiring_does_not_touch_what_is_being_connected(autojump_clock: MockClock) -> None:
    peer = Peer(connect=2)
    async with open_pool(peer.connect, close=peer.close) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(use, pool)
        await trio.sleep(1)
        pool.retire()
        await trio.sleep(2)
        assert await use(pool) == 0


async def test_a_pool_that_cannot_be_retired_stops_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        asked = 0

        def retire(self) -> None:
            self.asked += 1
            raise ValueError("broken")

    pool, breaker = Broken(), CircuitBreaker()
    with caplog.at_level(logging.ERROR, "trioresil"):
        async with opened() as health:
            health.watch("db", Service(DOWN, DOWN).check, pool=pool, breaker=breaker, rise=1, fall=1)
            await trio.sleep(1)
            assert (pool.asked, breaker.state) == (1, ISOLATED)
            await health.wait_healthy()
            assert (pool.asked, breaker.state) == (1, CLOSED)
    assert "could not be retired" in caplog.text


def test_a_breaker_held_by_a_monitor_of_a_run_that_ended_is_free() -> None:
    breaker = CircuitBreaker()

    async def main() -> HealthMonitor:
        service = Service(takes=math.inf)
        async with opened(timeout=1) as health:
            health.watch("api", service.check, breaker=breaker, fall=1)
            await trio.sleep(2)
            assert breaker.state is ISOLATED
        return health

    health = trio.run(main, clock=MockClock(autojump_threshold=0))
    assert breaker.state is CLOSED
    assert not health["api"].healthy
