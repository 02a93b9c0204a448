"""A program that a test starts and stops: Hypercorn, a door, a shutdown.

It prints its URL, serves, and prints at the end what it did, as JSON. Its exit code is 0 if nothing was cut off, else 3.

    python -m tests.services._draining_service LEAD GRACE TRIGGER

TRIGGER is the method of the shutdown that tells the server to end: wait, or wait_drained.
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from typing import Any

import hypercorn.config
import hypercorn.trio
import trio

import trioresil
import trioresil.asgi

SECONDS = 0.3  # that a request takes


class Service:
    """An ASGI application: /work takes a while, /stuck for ever, /begun tells whether one has begun, /readyz the balancer."""

    def __init__(self, health: trioresil.HealthMonitor) -> None:
        self.door = trioresil.Bulkhead(1000, name="requests")
        self.probes = trioresil.asgi.health_app(health)
        self.started = self.finished = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or scope["path"] == "/readyz":
            await self.probes(scope, receive, send)
            return
        if scope["path"] == "/begun":
            await answer(send, 200 if self.started else 404)
            return
        try:
            async with self.door:
                self.started += 1
                await trio.sleep(math.inf if scope["path"] == "/stuck" else SECONDS)
                await answer(send, 200)
                self.finished += 1
        except trioresil.BulkheadFullError:
            await answer(send, 503)


async def answer(send: Any, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def main(lead: float, grace: float, trigger: str) -> int:
    config = hypercorn.config.Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    async with trioresil.open_health_monitor() as health:
        service = Service(health)
        async with trioresil.open_shutdown(lead=lead, grace=grace, health=health) as shutdown:
            shutdown.register(service.door)
            async with trio.open_nursery() as nursery:
                binds = await nursery.start(serve, service, config, getattr(shutdown, trigger))
                print(binds[0], flush=True)
    report = shutdown.report
    said = {
        "started": service.started,
        "finished": service.finished,
        "reason": report.reason,
        "seconds": report.seconds,
        "cancelled": report.cancelled,
        "running": [each.name for each in report.running],
    }
    print(json.dumps(said), flush=True)
    return 0 if report.clean else 3


async def serve(service: Service, config: hypercorn.config.Config, trigger: Any, *, task_status: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        await hypercorn.trio.serve(service, config, shutdown_trigger=trigger, task_status=task_status)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(trio.run(main, float(sys.argv[1]), float(sys.argv[2]), sys.argv[3]))
