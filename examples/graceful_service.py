"""A service that shuts down without losing a request: Hypercorn behind a bulkhead, stopped by a SIGTERM while clients ask."""

from __future__ import annotations

import os
import signal
import warnings
from collections import Counter
from typing import Any

import hypercorn.config
import hypercorn.trio
import trio

import trioresil
import trioresil.asgi
import trioresil.httpx


class App:
    """An ASGI application: /readyz for the load balancer, and orders, which take a while."""

    def __init__(self, health: trioresil.HealthMonitor) -> None:
        self.orders = trioresil.Bulkhead(50, name="orders")  # the door
        self.probes = trioresil.asgi.health_app(health)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or scope["path"] == "/readyz":
            await self.probes(scope, receive, send)
            return
        try:
            async with self.orders:
                await trio.sleep(1.5)
                status = 200
        except trioresil.BulkheadFullError:
            status = 503
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


async def load_balance(url: str, outcomes: Counter[int]) -> None:
    """Send orders to the service until it is no longer ready; like any load balancer, notice that a little late."""
    async with trioresil.httpx.open_client(base_url=url, retry=None) as client, trio.open_nursery() as nursery:

        async def order() -> None:
            outcomes[(await client.post("/orders")).status_code] += 1

        while (await client.get("/readyz")).is_success:
            for _ in range(12):
                nursery.start_soon(order)
                await trio.sleep(0.02)


async def serve(outcomes: Counter[int]) -> trioresil.ShutdownReport:
    config = hypercorn.config.Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    async with (
        trioresil.open_health_monitor() as health,
        trio.open_nursery() as clients,
        trioresil.open_shutdown(lead=1, grace=5, health=health) as shutdown,
    ):
        app = App(health)
        shutdown.register(app.orders)

        async def be_stopped(*, task_status: trio.TaskStatus[list[str]]) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                await hypercorn.trio.serve(app, config, shutdown_trigger=shutdown.wait, task_status=task_status)

        async with trio.open_nursery() as server:
            [url] = await server.start(be_stopped)
            clients.start_soon(load_balance, url, outcomes)
            await trio.sleep(0.5)
            os.kill(os.getpid(), signal.SIGTERM)  # what Kubernetes does
    return shutdown.report


async def main() -> None:
    outcomes: Counter[int] = Counter()
    report = await serve(outcomes)
    [orders] = report.drainables
    print(f"stopped by {report.reason}; the last order was done {orders.seconds:.1f} s after admission closed")
    print(f"{outcomes[200]} orders served, {outcomes.total() - outcomes[200]} refused")
    assert report.clean
    assert outcomes.keys() == {200}


if __name__ == "__main__":
    trio.run(main)
