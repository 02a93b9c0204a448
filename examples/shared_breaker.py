"""Share one circuit breaker among many tasks: while the service is down they don't even try, and one of them probes."""

from __future__ import annotations

import logging
import sys

import httpx
import trio
from _server import Reply, Request, serve

import trioresil

breaker = trioresil.CircuitBreaker(
    trip=trioresil.FailureRatio(0.5, window=10, min_calls=10),
    open_for=0.5,
    on_result=lambda response: response.status_code >= 500,  # httpx returns a 503, it doesn't raise it
    name="orders",
)


async def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="  %(message)s")
    received = answered = rejected = 0
    broken = True
    end = trio.current_time() + 1.5

    async def handler(request: Request) -> Reply:
        nonlocal received
        received += 1
        await trio.sleep(0.01)
        return Reply(503 if broken else 200)

    async def worker(client: httpx.AsyncClient) -> None:
        nonlocal answered, rejected
        while trio.current_time() < end:
            try:
                response = await breaker.call(client.get, "/")
                answered += response.status_code == 200
            except trioresil.CircuitOpenError:
                rejected += 1  # the service was not called
                await breaker.wait_admittable()
            await trio.sleep(0.02)

    async def repair() -> None:
        nonlocal broken
        await trio.sleep(0.7)
        broken = False
        print("  the service is up again")

    async with serve(handler) as url, httpx.AsyncClient(base_url=url) as client, trio.open_nursery() as nursery:
        nursery.start_soon(repair)
        for _ in range(20):
            nursery.start_soon(worker, client)

    print(f"calls of 20 tasks: {received} reached the service, {rejected} were rejected, {answered} succeeded")
    print(breaker)


if __name__ == "__main__":
    trio.run(main)
