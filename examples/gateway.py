"""A gateway that watches three upstreams and routes around the sick one."""

from __future__ import annotations

import itertools
from collections import Counter
from contextlib import AsyncExitStack

import trio
from _server import Handler, Reply, Request, serve

import trioresil
from trioresil.httpx import check_http, open_client

broken: set[str] = set()


def upstream(name: str) -> Handler:
    async def handler(request: Request) -> Reply:
        return Reply(503) if name in broken else Reply(200, name.encode())

    return handler


async def main() -> None:
    async with AsyncExitStack() as stack:
        urls = {name: await stack.enter_async_context(serve(upstream(name))) for name in ("north", "south", "west")}
        client = await stack.enter_async_context(open_client())
        options = trioresil.open_health_monitor(interval=0.1, timeout=1, need={"upstreams": 1})
        health = await stack.enter_async_context(options)
        for name, url in urls.items():
            health.watch(name, check_http(client, url + "/health"), group="upstreams", rise=2, fall=2)
        turns = itertools.count()

        async def gateway(request: Request) -> Reply:
            names = health.healthy_in("upstreams")
            if not names:
                return Reply(503)
            response = await client.get(urls[names[next(turns) % len(names)]] + request.target)
            return Reply(response.status_code, response.content)

        front = await stack.enter_async_context(serve(gateway))
        changes = await stack.enter_async_context(health.subscribe())

        async def visit(times: int = 30) -> None:
            answers = [await client.get(front) for _ in range(times)]
            print("  ", dict(sorted(Counter(f"{each.status_code} {each.text}" for each in answers).items())))

        for _ in urls:
            await changes.receive()
        print("all are well:")
        await visit()
        broken.add("south")
        print((await changes.receive()).name, "is sick:")
        await visit()
        broken.clear()
        print((await changes.receive()).name, "is well again:")
        await visit()


if __name__ == "__main__":
    trio.run(main)
