"""Retry an httpx request that meets a dropped connection and a busy server, and honour the server's Retry-After."""

from __future__ import annotations

import logging
import sys

import httpx
import trio
from _server import Reply, Request, Reset, serve

import trioresil


def is_transient(error: Exception) -> bool:
    """Tell what is worth another attempt: no connection, a broken exchange, a server that says "not now"."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in (429, 502, 503, 504)
    return isinstance(error, httpx.TransportError)


def retry_after(error: Exception) -> float | None:
    """Return the seconds that the server asks us to wait. (Retry-After may also be a date; left out here.)"""
    if isinstance(error, httpx.HTTPStatusError):
        value = error.response.headers.get("Retry-After", "")
        return float(value) if value.isascii() and value.isdigit() else None
    return None


retry = trioresil.Retry(on=is_transient, delay_hint=retry_after, max_attempts=4, name="items")


@retry
async def get_json(client: httpx.AsyncClient, path: str) -> object:
    """GET is safe to repeat. A POST is not, unless the server was never reached or knows an idempotency key."""
    response = await client.get(path)
    return response.raise_for_status().json()


async def main() -> None:
    # Without an instrument, trioresil reports retries to the standard logger "trioresil".
    logging.basicConfig(stream=sys.stdout, format="  %(message)s")
    requests = 0

    async def flaky(request: Request) -> Reply:
        nonlocal requests
        requests += 1
        if request.target == "/missing":
            return Reply(404)
        if requests == 1:
            raise Reset
        if requests == 2:
            return Reply(503, headers={"Retry-After": "1"})
        return Reply(200, b'["apple", "pear"]')

    async with serve(flaky) as url, httpx.AsyncClient(base_url=url) as client:
        print("the first request is dropped, the second is told to come back in a second:")
        print("result:", await get_json(client, "/items"), "after", requests, "requests")
        try:
            await get_json(client, "/missing")
        except httpx.HTTPStatusError as error:
            print("a 404 is not transient, so it comes out at once:", error.response.status_code)


if __name__ == "__main__":
    trio.run(main)
