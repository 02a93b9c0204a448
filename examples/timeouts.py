"""Every timeout where it belongs: httpx's own for one step of an exchange, one for an attempt, one for the whole.

httpx's timeouts (connect, read, write, pool) each bound one wait, not the request: a server that sends a byte now and then
never meets them. A Timeout around the attempt does, and a Timeout around the Retry bounds all attempts and the waits between.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable

import httpx
import trio
from _server import Reply, Request, serve

import trioresil


async def handler(request: Request) -> Reply:
    if request.target == "/silent":
        await trio.sleep(60)
    if request.target == "/trickle":
        return Reply(200, trickle())
    return Reply(200, b"ok")


async def trickle() -> AsyncGenerator[bytes]:
    for _ in range(600):
        yield b"."
        await trio.sleep(0.05)


async def show(what: str, fn: Callable[[], Awaitable[object]]) -> None:
    began_at = trio.current_time()
    try:
        outcome = str(await fn())
    except (httpx.TimeoutException, trioresil.TimedOutError) as error:
        outcome = f"{type(error).__name__} {error}"
    print(f"{what:28} {trio.current_time() - began_at:3.1f} s  {outcome}")


async def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="    %(message)s")
    # One step each: to get a connection, for the next bytes to come, for the next to go, for a place in the pool.
    steps = httpx.Timeout(connect=1.0, read=0.4, write=0.2, pool=0.1)
    one_connection = httpx.Limits(max_connections=1)

    async with serve(handler) as url, httpx.AsyncClient(base_url=url, timeout=steps) as client:
        await show("read: silent server", lambda: client.get("/silent"))

        async with (
            httpx.AsyncClient(base_url=url, timeout=steps, limits=one_connection) as narrow,
            narrow.stream("GET", "/trickle"),
        ):
            await show("pool: no free connection", lambda: narrow.get("/"))

        attempt = trioresil.Timeout(0.5, name="attempt")
        await show("attempt: trickling server", lambda: attempt.call(client.get, "/trickle"))

        retry = trioresil.Retry(
            on=(httpx.TransportError, trioresil.TimedOutError), backoff=[0.05], max_attempts=100, name="trickle"
        )
        whole = trioresil.Pipeline(trioresil.Timeout(1.2, name="total"), retry, attempt)
        # The third attempt is cut short by the total, which is named, and not by its own 0.5 s.
        await show("total: all attempts", lambda: whole.call(client.get, "/trickle"))


if __name__ == "__main__":
    trio.run(main)
