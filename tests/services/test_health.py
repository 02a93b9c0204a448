"""open_health_monitor: when it checks, what it makes of the results, whom it tells; to the second."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trioresil
from tests._limits import notices_cancellation, schedule_points
from tests.kernel._prove import FixedChance
from tests.services._health import Service, at_once
from trioresil import (
    CheckFailedError,
    HealthChanged,
    HealthMonitor,
    HealthState,
    TimedOutError,
    open_health_monitor,
    serve_health_monitor,
)
from trioresil.testing import Recorder

UNKNOWN, HEALTHY, DEGRADED, UNHEALTHY = HealthState
DOWN = OSError("down")


def opened(**options: Any) -> AbstractAsyncContextManager[HealthMonitor]:
    return open_health_monitor(**{"interval": 8, "rng": at_once(), **options})


# --- when it checks --------------------------------------------------------------------------------------------------


async def test_unsure_checks_run_four_times_as_often_and_sure_ones_at_the_interval(autojump_clock: MockClock) -> None:
    service = Service(None, None, None, DOWN, DOWN, DOWN, DOWN, None, None)
    async with opened() as health:
        health.watch("api", service.check, rise=2, fall=3)
        await trio.sleep(49)
    assert service.asked_at == [0, 2, 10, 18, 20, 22, 30, 38, 40, 48]


async def test_the_first_start_is_uniform_in_the_interval(autojump_clock: MockClock) -> None:
    for chance, start in [(0.0, 0.0), (0.5, 4.0), (0.875, 7.0)]:
        service = Service()
        began_at = trio.current_time()
        async with opened(rng=FixedChance(chance)) as health:
            await trio.sleep(1)
            health.watch("api", service.check)
            await trio.sleep(8)
        assert service.asked_at[0] == began_at + 1 + start


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 0.95), (0.25, 0.975), (0.75, 1.025), (1.0, 1.05)])
async def test_each_interval_varies_by_a_twentieth(autojump_clock: MockClock, chance: float, factor: float) -> None:
    service = Service()
    async with opened(rng=FixedChance(0, chance)) as health:
        health.watch("api", service.check, rise=1)
        await trio.sleep(20)
    assert service.asked_at[1] - service.asked_at[0] == pytest.approx(8 * factor, rel=1e-12)


async def test_an_interval_runs_from_start_to_start(autojump_clock: MockClock) -> None:
    service = Service(takes=3)
    async with opened() as health:
        health.watch("api", service.check, rise=1)
        await trio.sleep(20)
    assert service.asked_at == [0, 8, 16]


async def test_a_check_longer_than_its_interval_is_run_again_when_it_has_ended(autojump_clock: MockClock) -> None:
    service = Service(takes=11)
    async with opened(timeout=100) as health:
        health.watch("api", service.check, rise=1)
        await trio.sleep(40)
    assert service.asked_at == [0, 11, 22, 33]


async def test_a_check_has_its_own_interval_and_timeout_if_it_is_given_them(autojump_clock: MockClock) -> None:
    service, other = Service(takes=math.inf), Service()
    async with opened(timeout=5) as health:
        health.watch("api", service.check, interval=4, timeout=0.5, fall=1)
        health.watch("other", other.check, rise=1)
        await trio.sleep(10)
        assert (service.asked_at, other.asked_at) == ([0, 4, 8], [4])


async def test_a_check_that_hangs_is_timed_out_unhealthy_after_fall_and_never_overlaps_itself(
    autojump_clock: MockClock,
) -> None:
    service = Service(takes=math.inf)
    async with opened(timeout=5) as health, health.subscribe() as changes:
        health.watch("api", service.check, fall=3)
        change = await changes.receive()
        assert (trio.current_time(), change.status.state) == (15, UNHEALTHY)
        assert service.asked_at == [0, 5, 10]  # in a hurry, but one after the other
        error = health["api"].error
        assert isinstance(error, TimedOutError)
        assert (error.policy, error.seconds, error.started) == ("api", 5, True)
        await trio.sleep(8)
        assert service.asked_at == [0, 5, 10, 18]


async def test_a_slow_or_hung_check_delays_no_other(autojump_clock: MockClock) -> None:
    hung, quick = Service(takes=math.inf), Service()
    async with opened(timeout=100) as health:
        health.watch("hung", hung.check)
        health.watch("quick", quick.check, rise=1)
        await trio.sleep(21)
        assert quick.asked_at == [4, 12, 20]
        assert health["hung"].state is UNKNOWN


async def test_a_result_that_comes_too_late_is_a_result(autojump_clock: MockClock) -> None:
    async def stubborn() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(7)

    async with opened(timeout=5) as health:
        health.watch("api", stubborn, rise=1)
        await health.wait_healthy("api")
        assert (trio.current_time(), health["api"].latency) == (7, 7)


async def test_1000_checks_at_1_second_are_spread_and_none_is_late(autojump_clock: MockClock) -> None:
    services = [Service(takes=0.25) for _ in range(1000)]
    hung = services[::100]
    for each in hung:
        each.takes = math.inf
    async with open_health_monitor(interval=1, timeout=0.5, rng=random.Random(20)) as health:
        for number, service in enumerate(services):
            health.watch(str(number), service.check, rise=1, fall=1)
        await trio.sleep(10)
        assert not health.healthy
        assert sum(health[name].healthy for name in health) == 990
    first = sorted(each.asked_at[0] for each in services)
    assert 0 <= first[0] < first[-1] < 1
    for tenth in range(10):
        assert 65 <= sum(tenth / 10 <= each < (tenth + 1) / 10 for each in first) <= 135
    for each in services:
        gaps = [after - before for before, after in zip(each.asked_at, each.asked_at[1:], strict=False)]
        assert all(0.95 - 1e-9 <= gap <= 1.05 + 1e-9 for gap in gaps)
        assert all(gap <= 1 + 0.5 for gap in gaps)
        assert len(each.asked_at) >= 9


# --- what it makes of the results ------------------------------------------------------------------------------------


async def test_every_change_is_told_at_the_instant_of_its_check(autojump_clock: MockClock) -> None:
    service = Service(None, None, DOWN, DOWN, DOWN, None, None, takes=0.5)
    seen = []
    async with opened() as health, health.subscribe() as changes:
        health.watch("api", service.check)
        async for change in changes:
            assert change.status == health[change.name]
            seen.append((trio.current_time(), change.name, change.previous, change.status.state, change.missed))
            if len(seen) == 3:
                break
    assert seen == [
        (2.5, "api", UNKNOWN, HEALTHY, 0),
        (14.5, "api", HEALTHY, UNHEALTHY, 0),
        (24.5, "api", UNHEALTHY, HEALTHY, 0),
    ]


async def test_a_status_says_what_is_known(autojump_clock: MockClock) -> None:
    service = Service(None, None, DOWN, takes=0.5)
    async with opened() as health:
        health.watch("api", service.check, critical=True, group="g")
        status = health["api"]
        assert (status.name, status.state, status.healthy, status.since, status.consecutive) == (
            "api",
            UNKNOWN,
            False,
            0,
            0,
        )
        assert (status.latency, status.latency_p50, status.latency_p99) == (None, None, None)
        assert (status.checked_at, status.checked_at_utc, status.error) == (None, None, None)
        assert (status.critical, status.group) == (True, "g")
        await trio.sleep(3)
        status = health["api"]
        assert (status.state, status.healthy, status.since, status.consecutive) == (HEALTHY, True, 2.5, 2)
        assert (status.checked_at, status.latency, status.latency_p50, status.latency_p99) == (2.5, 0.5, 0.5, 0.5)
        assert status.checked_at_utc is not None
        assert timedelta(0) <= datetime.now(UTC) - status.checked_at_utc < timedelta(seconds=10)
        service.takes = 0.75
        await trio.sleep(8)
        status = health["api"]
        assert (status.state, status.since, status.consecutive, status.error) == (HEALTHY, 2.5, 1, DOWN)
        assert (status.checked_at, status.latency) == (10.75, 0.5)  # of a check that passed


async def test_latencies_are_those_of_the_last_hundred_that_passed(autojump_clock: MockClock) -> None:
    service = Service()
    async with opened(interval=1, timeout=10) as health:
        health.watch("api", service.check)
        for number in range(1, 151):
            service.takes = number / 1024
            await service.answered()
        status = health["api"]
        assert (status.latency, status.latency_p50, status.latency_p99) == (150 / 1024, 100 / 1024, 149 / 1024)


async def test_slow_checks_degrade_it_and_that_is_healthy(autojump_clock: MockClock) -> None:
    service = Service(takes=2)
    async with opened() as health, health.subscribe() as changes:
        health.watch("api", service.check, degraded_above=1, rise=2, fall=3)
        await health.wait_healthy("api")
        assert health["api"].state is DEGRADED
        assert health.healthy
        service.takes = 1  # not above
        await trio.sleep(20)
        assert health["api"].state is HEALTHY
        service.takes = 1.25
        await trio.sleep(30)
        assert [(change.status.state, change.status.since) for change in drained(changes)] == [
            (DEGRADED, 4),
            (HEALTHY, 13),
            (DEGRADED, 33.25),
        ]


def drained(changes: trio.MemoryReceiveChannel[HealthChanged]) -> list[HealthChanged]:
    found = []
    while True:
        try:
            found.append(changes.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return found


async def test_false_is_a_failure_and_nothing_else_that_is_returned(autojump_clock: MockClock) -> None:
    async def answer(value: object) -> object:
        return value

    async with opened() as health:
        for value in (None, 0, "", [], True):
            health.watch(repr(value), functools.partial(answer, value), rise=1)
        health.watch("False", functools.partial(answer, False), fall=1)
        await trio.sleep(8)
        assert [name for name in health if not health[name].healthy] == ["False"]
        error = health["False"].error
        assert isinstance(error, CheckFailedError)
        assert str(error) == "False: it returned False"


async def test_the_error_stays_until_a_check_has_left_it_healthy(autojump_clock: MockClock) -> None:
    service = Service(DOWN, DOWN, DOWN, None, None, DOWN, None)
    errors = []
    async with opened() as health:
        health.watch("api", service.check)
        for _ in range(7):
            await service.answered()
            errors.append(health["api"].error)
    assert errors == [DOWN, DOWN, DOWN, DOWN, None, DOWN, None]


async def test_a_kept_error_holds_the_frames_of_the_check_only(autojump_clock: MockClock) -> None:
    service = Service(OSError("down"))
    async with opened() as health:
        health.watch("api", service.check)
        await trio.sleep(1)
        error = health["api"].error
    assert error is not None
    trace, names = error.__traceback__, []
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert names == ["_call", "check"]


# --- the whole -------------------------------------------------------------------------------------------------------


async def test_the_whole_needs_what_is_critical_and_its_groups(autojump_clock: MockClock) -> None:
    services = {name: Service() for name in ("db", "north", "south", "extra")}
    async with opened(need={"up": 1}) as health:
        assert not health.healthy  # nobody is there of whom one is needed
        health.watch("db", services["db"].check, critical=True, rise=1, fall=1)
        health.watch("north", services["north"].check, group="up", rise=1, fall=1)
        health.watch("south", services["south"].check, group="up", rise=1, fall=1)
        health.watch("extra", services["extra"].check, rise=1, fall=1)
        assert not health.healthy  # unknown is not healthy
        assert health.healthy_in("up") == []
        await health.wait_healthy()
        services["extra"].error = services["north"].error = DOWN
        await trio.sleep(16)
        assert health.healthy
        assert (health.healthy_in("up"), health.healthy_in("other")) == (["south"], [])
        services["south"].error = DOWN
        await trio.sleep(8)
        assert not health.healthy
        services["south"].error = None
        await health.wait_healthy()
        services["db"].error = DOWN
        await trio.sleep(8)
        assert not health.healthy


async def test_with_nothing_declared_every_check_counts(autojump_clock: MockClock) -> None:
    async with opened() as health:
        assert health.healthy  # it watches nothing and needs nothing
        health.watch("a", Service().check, rise=1)
        sick = Service()
        sick.error = DOWN
        health.watch("b", sick.check)
        assert not health.healthy
        await trio.sleep(20)
        assert not health.healthy
        health.unwatch("b")
        assert health.healthy


async def test_draining_changes_nothing_but_the_flag(autojump_clock: MockClock) -> None:
    async with opened() as health:
        health.watch("a", Service().check)
        await health.wait_healthy()
        assert not health.draining
        health.draining = True
        assert health.healthy
        assert health.statistics().draining
        await health.wait_healthy()


# --- waiting ---------------------------------------------------------------------------------------------------------


async def test_wait_healthy_returns_in_the_instant_of_the_change(autojump_clock: MockClock) -> None:
    one, two = Service(takes=0.5), Service(takes=1)
    returned = {}

    async with opened(rng=FixedChance(0, 0, 0.5)) as health, trio.open_nursery() as nursery:

        async def wait(name: str | None) -> None:
            await health.wait_healthy(name)
            returned[name] = trio.current_time()

        health.watch("one", one.check)
        health.watch("two", two.check)
        for name in ("one", "two", None):
            nursery.start_soon(wait, name)
    assert returned == {"one": 2.5, "two": 3, None: 3}


async def test_wait_healthy_is_a_checkpoint_when_it_need_not_wait(autojump_clock: MockClock) -> None:
    async with opened() as health:
        health.watch("a", Service().check)
        await health.wait_healthy()
        for name in (None, "a"):
            assert await schedule_points(functools.partial(health.wait_healthy, name)) == 1
            assert await notices_cancellation(functools.partial(health.wait_healthy, name))


async def test_wait_healthy_for_what_is_not_watched_is_a_key_error() -> None:
    async with opened() as health:
        with pytest.raises(KeyError, match="api"):
            await health.wait_healthy("api")


async def test_unwatched_while_somebody_waits_is_a_key_error_there(autojump_clock: MockClock) -> None:
    async with opened() as health, trio.open_nursery() as nursery:
        health.watch("api", Service(takes=math.inf).check)

        async def wait() -> None:
            with pytest.raises(KeyError, match="api"):
                await health.wait_healthy("api")
            assert trio.current_time() == 3

        nursery.start_soon(wait)
        await trio.sleep(3)
        health.unwatch("api")
        health.watch("api", Service().check)  # another of this name is not what he waits for


async def test_unwatching_the_sick_wakes_who_waits_for_the_whole(autojump_clock: MockClock) -> None:
    async with opened() as health, trio.open_nursery() as nursery:
        health.watch("sick", Service(takes=math.inf).check)
        nursery.start_soon(health.wait_healthy)
        await trio.sleep(3)
        health.unwatch("sick")
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks


async def test_who_waits_when_the_monitor_is_left_is_told(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(name: str | None) -> None:
            with pytest.raises(RuntimeError, match="the monitor is closed"):
                await health.wait_healthy(name)

        async with opened() as health:
            health.watch("api", Service(takes=math.inf).check)
            nursery.start_soon(wait, None)
            nursery.start_soon(wait, "api")
            await wait_all_tasks_blocked()


# --- watching and unwatching -----------------------------------------------------------------------------------------


async def test_names_are_a_collection(autojump_clock: MockClock) -> None:
    async with opened() as health:
        health.watch("b", Service().check)
        health.watch("a", Service().check)
        assert (list(health), len(health), "a" in health, "c" in health) == (["b", "a"], 2, True, False)
        for name in health:
            health.unwatch(name)
        assert len(health) == 0
        with pytest.raises(KeyError):
            health["a"]
        with pytest.raises(KeyError):
            health.unwatch("a")


async def test_an_unwatched_check_is_cancelled_and_told_of_no_more(autojump_clock: MockClock) -> None:
    service = Service(takes=3)
    async with opened() as health, health.subscribe() as changes:
        health.watch("api", service.check, rise=1)
        await trio.sleep(1)
        health.unwatch("api")
        await wait_all_tasks_blocked()
        assert (service.inside, service.ended) == (0, 1)
        await trio.sleep(20)
        assert service.asked_at == [0]
        assert drained(changes) == []


async def test_a_check_may_unwatch_itself_and_then_nothing_is_recorded(autojump_clock: MockClock) -> None:
    breaker = trioresil.CircuitBreaker()
    async with opened() as health, health.subscribe() as changes:

        async def check() -> bool:
            health.unwatch("api")
            return False

        health.watch("api", check, fall=1, breaker=breaker)
        await trio.sleep(20)
        assert drained(changes) == []
        assert breaker.statistics().isolations == 0


async def test_a_check_may_watch_another(autojump_clock: MockClock) -> None:
    other = Service()
    async with opened() as health:

        async def check() -> None:
            if "other" not in health:
                health.watch("other", other.check)

        health.watch("api", check)
        await health.wait_healthy()
        await health.wait_healthy("other")


async def test_the_same_name_twice_is_a_value_error() -> None:
    async with opened() as health:
        health.watch("api", Service().check)
        with pytest.raises(ValueError, match="'api'"):
            health.watch("api", Service().check)
        assert len(health) == 1


async def test_a_closed_monitor_can_be_read_and_nothing_else(autojump_clock: MockClock) -> None:
    async with opened() as health:
        health.watch("api", Service().check)
        await health.wait_healthy()
        assert health.statistics().running
    assert health["api"].healthy
    assert health.healthy
    assert not health.statistics().running
    assert repr(health) == "<trioresil.HealthMonitor 'health' healthy, 1/1 checks healthy, closed>"
    await health.wait_healthy()
    with pytest.raises(RuntimeError, match="closed"):
        health.watch("b", Service().check)
    with pytest.raises(RuntimeError, match="closed"):
        health.subscribe()


# --- failures of others ----------------------------------------------------------------------------------------------


class Odd(Exception):
    def __repr__(self) -> str:
        raise ValueError

    __str__ = __repr__


@pytest.mark.parametrize("error", [OSError(), trio.TooSlowError(), ExceptionGroup("g", [OSError(), KeyError()]), Odd()])
async def test_whatever_a_check_raises_is_its_outcome(autojump_clock: MockClock, error: Exception) -> None:
    service = Service(error, error, error)
    async with opened() as health:
        health.watch("api", service.check)
        await trio.sleep(5)
        assert health["api"].error is error
        assert health["api"].state is UNHEALTHY
        await health.wait_healthy("api")


async def test_a_check_that_is_not_async_is_a_mistake_that_ends_the_monitor_bare(autojump_clock: MockClock) -> None:
    with pytest.raises(TypeError, match=r"check must be an async function, but .*<lambda> returned 3"):
        async with opened() as health:
            health.watch("api", lambda: 3)  # type: ignore[arg-type, return-value]
            await trio.sleep_forever()
    assert trio.current_time() == 0


async def test_a_check_that_wants_arguments_is_refused_and_one_that_only_takes_them_is_not(
    autojump_clock: MockClock,
) -> None:
    async def check(answer: bool = True) -> bool:
        return answer

    async with opened() as health:
        with pytest.raises(TypeError, match=r"check must be an async function without arguments, not .*check_tcp"):
            health.watch("forgotten call", trioresil.check_tcp)  # type: ignore[arg-type]
        assert "forgotten call" not in health
        health.watch("api", check)
        await health.wait_healthy("api")


async def test_a_pool_whose_retire_is_async_is_refused() -> None:
    class Pool:
        async def retire(self) -> None: ...

    async with opened() as health:
        with pytest.raises(TypeError, match="pool must have a synchronous method retire"):
            health.watch("api", Service().check, pool=Pool())
        assert "api" not in health


async def test_subscriptions_that_come_and_go_without_a_change_are_not_kept() -> None:
    async with opened() as health:
        async with health.subscribe():
            for _ in range(10):
                health.subscribe().close()
            async with health.subscribe():
                assert len(health._subscribers) == 2
                assert health.statistics().subscribers == 2


async def test_errors_beside_the_cancellation_of_a_timed_out_check_are_its_outcome(autojump_clock: MockClock) -> None:
    error = OSError()

    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    async def check() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled)
            nursery.start_soon(trio.sleep_forever)

    async with opened() as health:
        health.watch("api", check, fall=1)
        await trio.sleep(6)
        found = health["api"].error
        assert isinstance(found, ExceptionGroup)
        assert found.exceptions == (error,)


@pytest.mark.parametrize("kind", ["bare", "group"])
@pytest.mark.parametrize("how", ["unwatched", "left", "cancelled"])
async def test_what_a_check_raises_because_it_is_being_ended_is_nothing(
    autojump_clock: MockClock, kind: str, how: str
) -> None:
    breaker = trioresil.CircuitBreaker()

    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError

    async def check() -> None:
        if kind == "bare":
            await fail_when_cancelled()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled)
            nursery.start_soon(trio.sleep_forever)

    with trio.CancelScope() as scope:
        async with opened(timeout=100) as health:
            changes = health.subscribe()
            health.watch("api", check, fall=1, breaker=breaker)
            await trio.sleep(1)
            if how == "unwatched":
                health.unwatch("api")
                await trio.sleep(1)
            elif how == "cancelled":
                scope.cancel()
                with trio.CancelScope(shield=True):  # the check ends before the monitor is left
                    await trio.sleep(1)
                assert drained(changes) == []
                await trio.sleep_forever()
    assert scope.cancelled_caught == (how == "cancelled")
    assert drained(changes) == []
    assert breaker.state is trioresil.CircuitState.CLOSED


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
async def test_what_is_no_exception_ends_the_monitor(autojump_clock: MockClock, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        async with opened() as health:
            health.watch("api", Service(error).check)
            await trio.sleep_forever()
    assert caught.value is error


async def test_a_keyboard_interrupt_beside_a_cancellation_is_not_lost(autojump_clock: MockClock) -> None:
    async def interrupt_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyboardInterrupt

    async def check() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt_when_cancelled)
            nursery.start_soon(trio.sleep_forever)

    with pytest.raises(BaseException) as caught:  # noqa: PT011
        async with opened(timeout=100) as health:
            health.watch("api", check)
            await trio.sleep(1)
            health.unwatch("api")
            await trio.sleep(1)
    assert isinstance(caught.value, BaseExceptionGroup)
    assert caught.group_contains(KeyboardInterrupt) if isinstance(caught.value, BaseExceptionGroup) else True


async def test_a_crash_of_the_monitors_own_code_surfaces_bare(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug = ZeroDivisionError()

    def crash(*args: object) -> None:
        raise bug

    with pytest.raises(ZeroDivisionError) as caught:
        async with opened() as health:
            health.watch("api", Service().check)
            health.watch("other", Service().check)
            monkeypatch.setattr("trioresil._kernel.health.Health.record", crash)
            await trio.sleep_forever()
    assert caught.value is bug
    assert not health.statistics().running


async def test_a_ctrl_c_may_strike_a_check_and_not_the_monitor(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    protected: dict[str, bool] = {}

    async def check() -> None:
        protected["check"] = trio.lowlevel.currently_ki_protected()
        await trio.lowlevel.checkpoint()

    def note(self: object, change: object) -> int:
        protected["monitor"] = trio.lowlevel.currently_ki_protected()
        return 0

    monkeypatch.setattr("trioresil._services.health._Subscriber.send", note)
    async with opened() as health, health.subscribe():
        health.watch("api", check)
        await health.wait_healthy()
    assert protected == {"check": False, "monitor": True}


async def test_an_instrument_that_raises_stops_nothing(autojump_clock: MockClock) -> None:
    class Broken:
        def record(self, event: trioresil.Event, /) -> None:
            raise ValueError

    service = Service(DOWN, DOWN, DOWN)
    with trioresil.instrument(Broken()):
        async with opened() as health:
            health.watch("api", service.check)
            await health.wait_healthy("api")


async def test_the_body_error_leaves_bare(autojump_clock: MockClock) -> None:
    error = ValueError()
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        async with opened() as health:
            health.watch("api", Service(takes=math.inf).check)
            await trio.sleep(1)
            raise error
    assert caught.value is error
    assert error.__context__ is None


# --- subscribers -----------------------------------------------------------------------------------------------------


async def test_a_slow_subscriber_blocks_nobody_and_is_told_what_it_missed(autojump_clock: MockClock) -> None:
    service = Service(*[None, DOWN] * 4)
    async with opened() as health, health.subscribe(buffer=2) as slow, health.subscribe() as quick:
        health.watch("api", service.check, rise=1, fall=1)
        await trio.sleep(8 * 6 + 1)  # seven changes
        assert len(service.asked_at) == 7
        assert [change.missed for change in drained(quick)] == [0] * 7
        assert health.statistics().missed == 4
        first = [(change.status.since, change.missed) for change in drained(slow)]
        assert first == [(0, 0), (8, 0)]  # then 16, 24, 32 and 40 were lost, and 48 is late
        await trio.sleep(8)
        assert [(change.status.since, change.missed) for change in drained(slow)] == [(48, 4), (56, 0)]
        assert health.statistics().missed == 4


async def test_the_last_change_comes_even_if_nothing_changes_any_more(autojump_clock: MockClock) -> None:
    service = Service(None, DOWN, None)
    async with opened() as health, health.subscribe(buffer=1) as slow:
        health.watch("api", service.check, rise=1, fall=1)
        await trio.sleep(17)
        assert [change.status.state for change in drained(slow)] == [HEALTHY]
        assert drained(slow) == []
        change = await slow.receive()
        assert (trio.current_time(), change.status.state, change.missed) == (24, HEALTHY, 1)


async def test_the_last_change_comes_when_the_monitor_is_left_if_there_is_room(autojump_clock: MockClock) -> None:
    service = Service(None, DOWN)
    async with opened() as health:
        slow = health.subscribe(buffer=1)
        health.watch("api", service.check, rise=1, fall=1)
        await trio.sleep(9)
        assert [change.status.state for change in drained(slow)] == [HEALTHY]
    assert [change.status.state async for change in slow] == [UNHEALTHY]


async def test_leaving_the_monitor_ends_the_iteration(autojump_clock: MockClock) -> None:
    seen = []

    async def follow(changes: AsyncIterator[HealthChanged]) -> None:
        seen.extend([change.status.state async for change in changes])

    async with trio.open_nursery() as nursery:
        async with opened() as health:
            nursery.start_soon(follow, health.subscribe())
            health.watch("api", Service().check)
            await health.wait_healthy()
    assert seen == [HEALTHY]


async def test_closing_the_receiver_early_is_allowed(autojump_clock: MockClock) -> None:
    async with opened() as health:
        async with health.subscribe():
            assert health.statistics().subscribers == 1
        assert health.statistics().subscribers == 0
        health.watch("api", Service().check)
        await health.wait_healthy()
        await trio.sleep(20)
        assert health._subscribers == []
        lagging = health.subscribe(1)
        await lagging.aclose()


async def test_a_subscriber_that_crashes_takes_nobody_with_it(autojump_clock: MockClock) -> None:
    async with opened() as health:
        health.watch("api", Service(None, DOWN).check, rise=1, fall=1)
        with pytest.raises(ZeroDivisionError):
            async with health.subscribe() as changes:
                async for _ in changes:
                    raise ZeroDivisionError
        await trio.sleep(20)
        assert health["api"].since == 16


async def test_an_instrument_hears_of_changes(autojump_clock: MockClock) -> None:
    recorder = Recorder()
    service = Service(None, None, DOWN, DOWN, DOWN)
    with trioresil.instrument(recorder):
        async with opened(name="deps") as health:
            health.watch("api", service.check)
            await trio.sleep(15)
    changes = recorder.of(HealthChanged)
    assert [(each.name, each.policy.name, each.previous, each.status.state) for each in changes] == [
        ("api", "deps", UNKNOWN, HEALTHY),
        ("api", "deps", HEALTHY, UNHEALTHY),
    ]
    assert all(each.policy is health and each.missed == 0 for each in changes)
    assert changes[1].status.error is DOWN
    assert [event.policy for event in recorder.of(trioresil.PolicySeen)] == [health]


# --- forms and arguments ---------------------------------------------------------------------------------------------


async def test_serve_keeps_a_monitor_for_a_nursery(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        serve = functools.partial(serve_health_monitor, interval=8, rng=at_once(), name="deps")
        health = await nursery.start(serve)
        assert health.name == "deps"
        health.watch("api", Service().check)
        await health.wait_healthy()
        assert trio.current_time() == 2
        nursery.cancel_scope.cancel()
    assert not health.statistics().running


async def test_the_status_line(autojump_clock: MockClock) -> None:
    async with opened(name="deps") as health:
        assert repr(health) == "<trioresil.HealthMonitor 'deps' healthy, 0/0 checks healthy>"
        health.watch("a", Service().check)
        health.watch("b", Service(takes=math.inf).check)
        await health.wait_healthy("a")
        health.draining = True
        assert repr(health) == "<trioresil.HealthMonitor 'deps' not healthy, 1/2 checks healthy, draining>"


async def test_a_monitor_is_opened_once() -> None:
    manager = opened()
    async with manager:
        with pytest.raises(RuntimeError, match="opened already"):
            await manager.__aenter__()


async def test_checks_run_in_the_context_of_who_opened_the_monitor(autojump_clock: MockClock) -> None:
    recorder, other = Recorder(), Recorder()
    with trioresil.instrument(recorder):
        async with opened() as health:
            with trioresil.instrument(other):
                health.watch("api", Service().check)
            await health.wait_healthy()
    assert (len(recorder.of(HealthChanged)), len(other.events)) == (1, 0)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"interval": 0}, ValueError),
        ({"interval": math.inf}, ValueError),
        ({"interval": "3"}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"timeout": math.nan}, ValueError),
        ({"need": {"a": 0}}, ValueError),
        ({"need": {"": 1}}, ValueError),
        ({"need": {1: 1}}, TypeError),
        ({"need": {"a": True}}, TypeError),
        ({"need": 1}, TypeError),
        ({"need": ["a"]}, TypeError),
        ({"rng": 1}, TypeError),
        ({"name": ""}, ValueError),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(arguments))):
        open_health_monitor(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": 1}, TypeError),
        ({"interval": 0}, ValueError),
        ({"interval": math.inf}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"rise": 0}, ValueError),
        ({"fall": 0}, ValueError),
        ({"fall": 1.5}, TypeError),
        ({"degraded_above": 0}, ValueError),
        ({"critical": 1}, TypeError),
        ({"group": ""}, ValueError),
        ({"breaker": "api"}, TypeError),
        ({"pool": object()}, TypeError),
    ],
)
async def test_wrong_arguments_of_watch_are_refused_and_nothing_is_watched(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    async with opened() as health:
        with pytest.raises(error, match=next(iter(arguments))):
            health.watch(**{"name": "api", "check": Service().check, **arguments})
        assert len(health) == 0


async def test_a_coroutine_is_refused_with_advice() -> None:
    async with opened() as health:
        with pytest.raises(TypeError, match="without"):
            health.watch("api", Service().check())  # type: ignore[arg-type]


async def test_wrong_buffer_is_refused() -> None:
    async with opened() as health:
        with pytest.raises(ValueError, match="buffer"):
            health.subscribe(0)


def test_another_run_may_not_use_it() -> None:
    async def inner(health: HealthMonitor) -> None:
        with pytest.raises(RuntimeError, match="another trio"):
            health.watch("b", Service().check)

    async def outer() -> None:
        async with opened() as health:
            await trio.to_thread.run_sync(trio.run, inner, health)
            assert len(health) == 0

    trio.run(outer)
