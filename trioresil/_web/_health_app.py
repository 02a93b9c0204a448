"""health_app: what a load balancer, an orchestrator and a person want to know, as application/health+json.

The form is that of draft-inadarei-api-health-check: "pass", "warn" or "fail", and for each check when it was asked, what came of
it and how long it took. What errors say is shown on one line, cut short, and without the credentials and queries of URLs.
"""

from __future__ import annotations

import json
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .._events import HealthStatus
from .._kernel.health import HealthState
from .._redaction import safe_error
from .._services.health import HealthMonitor

WORDS: Final = {
    HealthState.HEALTHY: "pass",
    HealthState.DEGRADED: "warn",
    HealthState.UNHEALTHY: "fail",
    HealthState.UNKNOWN: "fail",
}


def health_app(monitor: HealthMonitor) -> Starlette:
    """Return an ASGI application that tells what a health monitor knows.

    Mount it in your own application, or serve it alone on a port that only your orchestrator reaches. It needs the extra `cli`.

    Synopsis::

        async with trioresil.open_health_monitor() as health:
            app = Starlette(routes=[Mount("/", trioresil.asgi.health_app(health))])
            await hypercorn.trio.serve(app, config)

    It answers three questions, with 200 for yes and 503 for no:

    - `/healthz`: is the whole healthy? With every check, for people and dashboards.
    - `/readyz`: should requests come here? Not while the whole isn't healthy, nor once a shutdown has begun.
    - `/livez`: does the program still check? Only if not should it be restarted: a sick dependency doesn't get well by that.

    Args:
      monitor (HealthMonitor): what knows.
    """
    if not isinstance(monitor, HealthMonitor):
        raise TypeError(f"monitor must be a HealthMonitor, not {monitor!r}")

    async def healthz(_request: Request) -> Response:
        statistics = monitor.statistics()
        checks = {f"{name}:responseTime": [_shown_check(each)] for name, each in statistics.checks.items()}
        words = {WORDS[each.state] for each in statistics.checks.values()}
        status = "fail" if not statistics.healthy else "pass" if words <= {"pass"} else "warn"
        return _answer(status, description=monitor.name, checks=checks)

    async def readyz(_request: Request) -> Response:
        if monitor.draining:
            return _answer("fail", output="draining")
        lacks = monitor.what_lacks()
        return _answer("fail", output=f"not healthy: {'; '.join(lacks)}") if lacks else _answer("pass")

    async def livez(_request: Request) -> Response:
        running = monitor.statistics().running
        return _answer("pass") if running else _answer("fail", output="the health monitor does not run")

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/livez", livez)])


def _answer(status: str, **more: Any) -> Response:
    return Response(
        json.dumps({"status": status, **more}, ensure_ascii=False),
        status_code=503 if status == "fail" else 200,
        media_type="application/health+json",
        headers={"cache-control": "no-store"},
    )


def _shown_check(status: HealthStatus) -> dict[str, Any]:
    found: dict[str, Any] = {"componentId": status.name, "status": WORDS[status.state], "state": status.state.value}
    if status.latency is not None:
        found |= {"observedValue": round(status.latency * 1000, 3), "observedUnit": "ms"}
    if status.checked_at_utc is not None:
        found["time"] = status.checked_at_utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if status.error is not None:
        found["output"] = safe_error(status.error)
    elif status.state is HealthState.UNKNOWN:
        found["output"] = "not known yet"
    return found
