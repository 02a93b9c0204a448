"""What a type checker sees of the supervisor and of the health monitor."""

from __future__ import annotations

from typing import Any, assert_type

import trio

import trioresil


async def supervise() -> None:
    async with trioresil.open_supervisor("one_for_all", max_restarts=5) as supervisor:
        assert_type(supervisor, trioresil.Supervisor)
        assert_type(await supervisor.start(trio.sleep_forever, restart="never", name="a"), Any)
        supervisor.start_soon(trio.sleep, 1, restart="always")
        assert_type(supervisor.statistics(), trioresil.SupervisorStatistics)
        assert_type(supervisor.statistics().children, tuple[trioresil.ChildStatistics, ...])
        supervisor.start_soon(trio.sleep, 1, restart="sometimes")  # type: ignore[arg-type]
    assert_type(trioresil.stop_requested(), trio.Event)
    trioresil.open_supervisor("one_for_none")  # type: ignore[arg-type]


async def watch(breaker: trioresil.CircuitBreaker) -> None:
    async with trioresil.open_health_monitor(interval=10, need={"upstreams": 1}) as health:
        assert_type(health, trioresil.HealthMonitor)
        health.watch("db", trioresil.check_tcp("db", 5432), critical=True, breaker=breaker)
        health.watch("db", trioresil.check_tcp)  # type: ignore[arg-type]
        assert_type(health["db"], trioresil.HealthStatus)
        assert_type(health["db"].latency, float | None)
        assert_type(health.healthy, bool)
        assert_type(health.healthy_in("upstreams"), list[str])
        async with health.subscribe() as changes:
            assert_type(changes, trio.MemoryReceiveChannel[trioresil.HealthChanged])
