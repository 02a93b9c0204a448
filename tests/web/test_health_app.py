"""health_app: what it answers, with which status, and what it keeps to itself."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

import trioresil
from tests.http._servers import start_hypercorn
from tests.services._health import Service, at_once
from trioresil import HealthMonitor, open_health_monitor
from trioresil.asgi import health_app

DOWN = OSError("down")


def opened(**options: Any) -> open_health_monitor:
    return open_health_monitor(**{"interval": 8, "rng": at_once(), **options})


async def ask(monitor: HealthMonitor, path: str, method: str = "GET") -> tuple[int, Any]:
    """Return the status and the body of an answer."""
    transport = httpx.ASGITransport(app=health_app(monitor))
    async with httpx.AsyncClient(transport=transport, base_url="http://health") as client:
        response = await client.request(method, path)
    if response.status_code in (200, 503):
        assert response.headers["content-type"] == "application/health+json"
        assert response.headers["cache-control"] == "no-store"
    return response.status_code, json.loads(response.text) if response.text.startswith("{") else response.text


async def test_a_healthy_program_passes(autojump_clock: MockClock) -> None:
    async with opened(name="deps") as health:
        health.watch("api", Service(takes=0.25).check)
        await health.wait_healthy()
        status, body = await ask(health, "/healthz")
        assert (status, body["status"], body["description"]) == (200, "pass", "deps")
        [check] = body["checks"]["api:responseTime"]
        assert check.pop("time").endswith("Z")
        assert check == {
            "componentId": "api",
            "status": "pass",
            "state": "healthy",
            "observedValue": 250,
            "observedUnit": "ms",
        }
        assert await ask(health, "/readyz") == (200, {"status": "pass"})
        assert await ask(health, "/livez") == (200, {"status": "pass"})


async def test_before_the_first_results_it_is_not_ready_but_alive(autojump_clock: MockClock) -> None:
    async with opened() as health:
        health.watch("api", Service().check)
        status, body = await ask(health, "/healthz")
        assert (status, body["status"]) == (503, "fail")
        assert body["checks"]["api:responseTime"] == [
            {"componentId": "api", "status": "fail", "state": "unknown", "output": "not known yet"}
        ]
        assert await ask(health, "/readyz") == (503, {"status": "fail", "output": "not healthy: api is not"})
        assert (await ask(health, "/livez"))[0] == 200


async def test_an_unhealthy_program_is_not_ready_but_alive(autojump_clock: MockClock) -> None:
    service = Service()
    service.error = DOWN
    async with opened() as health:
        health.watch("api", service.check, fall=1)
        await trio.sleep(1)
        status, body = await ask(health, "/healthz")
        assert (status, body["status"]) == (503, "fail")
        assert body["checks"]["api:responseTime"][0]["output"] == "OSError: down"
        assert (await ask(health, "/readyz"))[0] == 503
        assert (await ask(health, "/livez"))[0] == 200


async def test_what_is_sick_and_not_needed_or_slow_is_a_warning(autojump_clock: MockClock) -> None:
    service, slow = Service(), Service(takes=1)
    service.error = DOWN
    async with opened(rng=at_once()) as health:
        health.watch("slow", slow.check, critical=True, degraded_above=0.5)
        await health.wait_healthy()
        status, body = await ask(health, "/healthz")
        assert (status, body["status"]) == (200, "warn")
        assert body["checks"]["slow:responseTime"][0]["status"] == "warn"
        health.watch("extra", service.check, fall=1)
        await trio.sleep(10)
        status, body = await ask(health, "/healthz")
        assert (status, body["status"]) == (200, "warn")
        assert body["checks"]["extra:responseTime"][0]["status"] == "fail"
        assert (await ask(health, "/readyz"))[0] == 200


async def test_while_draining_it_is_not_ready_and_all_else_is_as_it_was(autojump_clock: MockClock) -> None:
    async with opened() as health:
        health.watch("api", Service().check)
        await health.wait_healthy()
        health.draining = True
        assert await ask(health, "/readyz") == (503, {"status": "fail", "output": "draining"})
        assert (await ask(health, "/healthz"))[0] == 200
        assert (await ask(health, "/livez"))[0] == 200


async def test_a_monitor_that_does_not_run_is_not_alive(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as health:
        pass
    assert (await ask(health, "/livez"))[0] == 503

    def crash(*args: object) -> None:
        raise ZeroDivisionError

    seen = []
    with pytest.raises(ZeroDivisionError):
        async with opened() as health:
            health.watch("api", Service().check)
            monkeypatch.setattr("trioresil._kernel.health.Health.record", crash)
            with trio.CancelScope(shield=True):  # the body has not noticed yet
                await trio.sleep(1)
                seen.append((await ask(health, "/livez"))[0])
    assert seen == [503]


class Odd(Exception):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("error", "output"),
    [
        (
            OSError("no answer from https://user:secret@api.example:8443/health?key=secret#secret"),
            "OSError: no answer from https://api.example:8443/health",
        ),
        (ValueError(), "ValueError"),
        (ValueError("two\nlines\r\n"), "ValueError: two lines"),
        (Odd(), "Odd"),
        (trioresil.TimedOutError("api", 5), "TimedOutError: api: timed out after 5 s"),
    ],
)
async def test_errors_are_told_on_one_line_without_secrets(
    autojump_clock: MockClock, error: Exception, output: str
) -> None:
    service = Service(error, error, error)
    async with opened() as health:
        health.watch("api", service.check, fall=1)
        await trio.sleep(1)
        _, body = await ask(health, "/healthz")
    assert body["checks"]["api:responseTime"][0]["output"] == output
    assert "secret" not in json.dumps(body)


async def test_long_errors_are_cut(autojump_clock: MockClock) -> None:
    async with opened() as health:
        health.watch("api", Service(OSError("x" * 1000)).check, fall=1)
        await trio.sleep(1)
        _, body = await ask(health, "/healthz")
    assert len(body["checks"]["api:responseTime"][0]["output"]) == 200


async def test_other_paths_and_methods_are_not_there(autojump_clock: MockClock) -> None:
    async with opened() as health:
        assert (await ask(health, "/"))[0] == 404
        assert (await ask(health, "/healthz", "POST"))[0] == 405
        assert await ask(health, "/healthz", "HEAD") == (200, "")


def test_what_is_no_monitor_is_refused() -> None:
    with pytest.raises(TypeError, match="monitor"):
        health_app(open_health_monitor())  # type: ignore[arg-type]


@pytest.mark.slow
async def test_served_by_hypercorn_on_trio(nursery: trio.Nursery) -> None:
    async with open_health_monitor(interval=0.05, timeout=1) as health:
        service = Service()
        health.watch("api", service.check, rise=1, fall=1)
        await health.wait_healthy()
        url = await start_hypercorn(health_app(health), nursery)
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.get("/readyz")).status_code == 200
            service.takes = math.inf
            health.draining = True
            assert (await client.get("/readyz")).status_code == 503
            assert (await client.get("/healthz")).json()["status"] == "pass"
    nursery.cancel_scope.cancel()
