"""Degrade in steps: from the primary server to a cache, then to a second server, then to a default."""

from __future__ import annotations

import httpx
import trio
from _server import Handler, Reply, Request, serve

import trioresil

cache: dict[str, float] = {}


class NotCached(Exception):
    """The cache knows nothing about it."""


class Steps:
    """An instrument that remembers what a Fallback turned to."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def record(self, event: trioresil.Event) -> None:
        if isinstance(event, trioresil.FellBack):
            self.taken.append(event.alternative.rpartition(".")[2])


async def main() -> None:
    down = {"primary": False, "secondary": False}

    def server(name: str, price: bytes) -> Handler:
        async def handler(request: Request) -> Reply:
            return Reply(503) if down[name] else Reply(200, price)

        return handler

    async with (
        serve(server("primary", b"1.10")) as primary,
        serve(server("secondary", b"1.08")) as secondary,
        httpx.AsyncClient() as client,
    ):

        async def fetch(base_url: str, pair: str) -> float:
            response = await client.get(f"{base_url}/{pair}", timeout=1)
            return float(response.raise_for_status().text)

        async def from_primary(pair: str) -> float:
            price = await fetch(primary, pair)
            cache[pair] = price
            return price

        async def from_cache(pair: str) -> float:
            try:
                return cache[pair]
            except KeyError:
                raise NotCached(pair) from None

        async def from_secondary(pair: str) -> float:
            return await fetch(secondary, pair)

        # `on` names what may be hidden. A bug in our own code is not in it, and comes out.
        fallback = trioresil.Fallback(from_cache, from_secondary, on=(httpx.HTTPError, NotCached), default=None)

        steps = Steps()
        with trioresil.instrument(steps):
            print("all is well: ", await fallback.call(from_primary, "EURUSD"))
            down["primary"] = True
            print("primary down:", await fallback.call(from_primary, "EURUSD"))
            print("not cached:  ", await fallback.call(from_primary, "EURGBP"))
            down["secondary"] = True
            print("all down:    ", await fallback.call(from_primary, "EURJPY"))
        print("it fell back to:", ", ".join(steps.taken))


if __name__ == "__main__":
    trio.run(main)
