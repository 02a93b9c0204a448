"""Open an HTTP client that survives a reset, a busy moment and a server that is down, and see what it did."""

from __future__ import annotations

import logging
import sys

import httpx
import trio
from _server import Reply, Request, Reset, serve

import trioresil
from trioresil.httpx import RequestOptions, open_client


class Shop:
    """The other side: it stumbles as it is told, and counts what reaches it."""

    def __init__(self) -> None:
        self.script: list[object] = []
        self.orders = 0

    async def handle(self, request: Request) -> Reply:
        step = self.script.pop(0) if self.script else 200
        if step == "reset":
            raise Reset
        if isinstance(step, int) and step != 200:
            return Reply(step)
        if request.method == "POST":
            self.orders += 1
        return Reply(200, b'["apple", "pear"]')


def told(response: httpx.Response) -> str:
    how = response.extensions["trioresil"]
    return f"{response.status_code} at attempt {how.attempts}, on a {'used' if how.reused else 'new'} connection"


async def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="    %(message)s", level=logging.ERROR)
    shop = Shop()
    opened = open_client(
        total_timeout=5,
        attempt_timeout=1,
        breaker=lambda origin: trioresil.CircuitBreaker(
            trip=trioresil.ConsecutiveFailures(4), open_for=30, name=origin
        ),
    )
    async with serve(shop.handle) as url, opened as client:
        shop.script = ["reset", 503, 200]
        print("GET, reset and then busy:    ", told(await client.get(f"{url}/fruit")))
        print("GET, all well:               ", told(await client.get(f"{url}/fruit")))

        shop.script = [503]
        print("POST, busy:                  ", told(await client.post(f"{url}/orders")))
        shop.script = [503]
        headers = {"Idempotency-Key": "5a1c"}
        print("POST with an Idempotency-Key:", told(await client.post(f"{url}/orders", headers=headers)))
        shop.script = [429]
        print("POST, too many requests:     ", told(await client.post(f"{url}/orders")))
        print("orders that the shop has:    ", shop.orders)

        shop.script = [500] * 4
        for _ in range(4):
            await client.get(f"{url}/fruit")
        try:
            await client.get(f"{url}/fruit")
        except httpx.ConnectError as error:  # httpx's error, and trioresil's
            print("GET, after four 500s:        ", f"{error!r}")
        around = RequestOptions(breaker=False, retry=False)
        print("GET, past the circuit:       ", told(await client.get(f"{url}/fruit", extensions={"trioresil": around})))
        print(opened.transport)


if __name__ == "__main__":
    trio.run(main)
