"""A health monitor and who uses it: cancelled at any moment, nobody waits for nothing, and no isolation is left behind."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio

from tests.services._health import Service, at_once
from trioresil import CircuitBreaker, HealthMonitor, HealthState, open_health_monitor
from trioresil._services import health as module
from trioresil.testing import Sweep, SweepFailure, cancellation_sweep


class Ward:
    """A monitor with a sick and a well check, what is tied to them, and the invariants."""

    def __init__(self, sweep: Sweep) -> None:
        self.breaker = CircuitBreaker()
        self.service = Service(*[OSError()] * 3, takes=0.5)
        self.other = Service(takes=0.25)
        self.health: HealthMonitor | None = None
        self.manager = open_health_monitor(interval=8, timeout=2, rng=at_once())
        sweep.when_quiet(self.check)

    def check(self) -> None:
        health = self.health
        if health is None:
            return
        assert not (health._waiting and health.healthy)
        isolations = 0
        for watch in health._watches.values():
            assert not (watch.waiting and watch.health.state.is_healthy)
            assert not watch.is_over or not health._is_open
            isolations += watch.health.state is HealthState.UNHEALTHY and watch.breaker is not None
        assert self.breaker.statistics().isolations == (isolations if health._is_open else 0)
        assert self.service.inside in (0, 1)

    async def __aenter__(self) -> HealthMonitor:
        self.health = await self.manager.__aenter__()
        self.health.watch("sick", lambda: self.breaker.call(self.service.check), breaker=self.breaker)
        self.health.watch("well", self.other.check, interval=4)
        return self.health

    async def __aexit__(self, *exc: Any) -> bool:
        return await self.manager.__aexit__(*exc)

    def finish(self) -> None:
        assert self.health is None or not self.health._subscribers
        assert self.service.inside == self.other.inside == 0
        assert self.breaker.statistics().isolations == self.breaker.statistics().inside == 0


async def waiters(sweep: Sweep) -> None:
    ward = Ward(sweep)
    served = []

    async def wait(name: str | None) -> None:
        await health.wait_healthy(name)
        served.append(name)

    async def victim(name: str | None) -> None:
        with sweep.victim():
            await health.wait_healthy(name)

    async with ward as health, trio.open_nursery() as nursery:
        nursery.start_soon(wait, "sick")
        nursery.start_soon(wait, None)
        nursery.start_soon(victim, sweep.rng.choice(["sick", None]))
        nursery.start_soon(wait, "well")
        nursery.start_soon(wait, None)
    assert sorted(map(str, served)) == ["None", "None", "sick", "well"]
    ward.finish()


async def the_monitor_itself(sweep: Sweep) -> None:
    ward = Ward(sweep)
    told = []

    async def wait(health: HealthMonitor) -> None:
        try:
            await health.wait_healthy()
        except RuntimeError:
            told.append("closed")
        else:
            told.append("healthy")

    async with trio.open_nursery() as nursery:
        with sweep.victim():
            async with ward as health:
                nursery.start_soon(wait, health)
                await trio.sleep(4)
                health.unwatch("well")
                health.watch("again", ward.other.check, group="g")
                await trio.sleep(20)
    assert told in (["healthy"], ["closed"], [])
    ward.finish()


async def subscriber(sweep: Sweep) -> None:
    ward = Ward(sweep)
    seen: dict[str, list[tuple[str, HealthState]]] = {"victim": [], "other": []}

    async def follow(who: str) -> None:
        async with health.subscribe(buffer=1) as changes:
            async for change in changes:
                seen[who].append((change.name, change.status.state))

    async def victim() -> None:
        with sweep.victim():
            await follow("victim")

    async with trio.open_nursery() as nursery:
        async with ward as health:
            nursery.start_soon(victim)
            nursery.start_soon(follow, "other")
            await trio.sleep(20)
    assert seen["other"] == [
        ("well", HealthState.HEALTHY),
        ("sick", HealthState.UNHEALTHY),
        ("sick", HealthState.HEALTHY),
    ]
    assert seen["victim"] == seen["other"][: len(seen["victim"])]
    ward.finish()


async def who_unwatches(sweep: Sweep) -> None:
    ward = Ward(sweep)
    refused = []

    async def wait() -> None:
        try:
            await health.wait_healthy("sick")
        except KeyError:
            refused.append("sick")

    async with ward as health, trio.open_nursery() as nursery:
        ward.service.error, ward.service.takes = OSError(), math.inf
        nursery.start_soon(wait)
        with sweep.victim():
            await health.wait_healthy("well")
            await trio.sleep(7)
            health.unwatch("sick")
            await health.wait_healthy()
        if "sick" in health:
            health.unwatch("sick")
    assert refused == ["sick"]
    ward.finish()


SCENARIOS = [waiters, the_monitor_itself, subscriber, who_unwatches]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_cancelled_at_any_moment(scenario: Any) -> None:
    report = cancellation_sweep(scenario, seeds=range(2))
    assert report.cancelled > 20


# --- the net itself --------------------------------------------------------------------------------------------------


def keep_isolation(self: Any, watch: Any, why: str) -> None:
    watch.is_over = True
    watch.waiting.unpark_all()
    watch.scope.cancel(reason=why)


def forget_waiters_of_the_whole(self: Any) -> None:
    if self._waiting and self.healthy:
        self._waiting.unpark()


def forget_who_waits(self: Any, watch: Any, why: str) -> None:
    watch.is_over = True
    watch.release()
    watch.scope.cancel(reason=why)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "method", "fault"),
    [
        (the_monitor_itself, "_end", keep_isolation),
        (waiters, "_wake_waiters", forget_waiters_of_the_whole),
        (who_unwatches, "_end", forget_who_waits),
    ],
)
def test_the_sweep_notices_planted_faults(
    scenario: Any, method: str, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.HealthMonitor, method, fault)
    with pytest.raises(SweepFailure):
        cancellation_sweep(scenario, seeds=range(2))
