"""Give each host a breaker of its own: the sick one is left alone, and the healthy one doesn't notice."""

from __future__ import annotations

import logging
import sys
from collections import Counter

import httpx
import trio
from _server import Reply, Request, Reset, serve

import trioresil


def host_of(client: httpx.AsyncClient, url: str) -> str:
    """Return the key of a call, from its arguments."""
    return httpx.URL(url).netloc.decode()


breakers = trioresil.Keyed(
    lambda host: trioresil.CircuitBreaker(trip=trioresil.ConsecutiveFailures(3), open_for=10, name=host),
    key=host_of,
    max_keys=500,  # a crawler meets many hosts: the breakers last used are kept
)


@breakers
async def fetch(client: httpx.AsyncClient, url: str) -> int:
    return len((await client.get(url)).content)


async def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="  %(message)s")

    async def healthy(request: Request) -> Reply:
        return Reply(200, b"hello")

    async def sick(request: Request) -> Reply:
        raise Reset

    outcomes: Counter[tuple[str, str]] = Counter()
    async with serve(healthy) as good, serve(sick) as bad, httpx.AsyncClient() as client:
        for _ in range(10):
            for host, url in [("good", good), ("bad", bad)]:
                try:
                    await fetch(client, f"{url}/page")
                    outcomes[host, "answered"] += 1
                except trioresil.CircuitOpenError:
                    outcomes[host, "not even tried"] += 1
                except httpx.TransportError:
                    outcomes[host, "failed"] += 1

        for (host, outcome), calls in sorted(outcomes.items()):
            print(f"{host:5} {outcome:15} {calls:3}")
        print(breakers)
        for url in (good, bad):
            print(breakers[httpx.URL(url).netloc.decode()])


if __name__ == "__main__":
    trio.run(main)
