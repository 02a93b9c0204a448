"""Keep a nursery of workers below a rate, all together: the server allows 20 requests a second and counts them."""

from __future__ import annotations

from collections import deque

import httpx
import trio
from _server import Reply, Request, serve

import trioresil

# At most `capacity` at once, then `rate` a second. In any second that is at most capacity + rate, 5 + 14.
bucket = trioresil.TokenBucket(rate=14, capacity=5, name="catalogue")


async def main() -> None:
    arrivals: deque[float] = deque()
    busiest = refused = 0

    async def strict(request: Request) -> Reply:
        nonlocal busiest, refused
        now = trio.current_time()
        arrivals.append(now)
        while arrivals[0] <= now - 1:
            arrivals.popleft()
        busiest = max(busiest, len(arrivals))
        if len(arrivals) > 20:
            refused += 1
            return Reply(429, headers={"Retry-After": "1"})
        return Reply(200)

    async def worker(client: httpx.AsyncClient, pages: trio.MemoryReceiveChannel[int]) -> None:
        async for page in pages:
            async with bucket:  # waits for its turn, in the order of arrival
                await client.get(f"/pages/{page}")

    began_at = trio.current_time()
    async with serve(strict) as url, httpx.AsyncClient(base_url=url) as client, trio.open_nursery() as nursery:
        send, receive = trio.open_memory_channel[int](0)
        for _ in range(8):
            nursery.start_soon(worker, client, receive)
        async with send:
            for page in range(40):
                await send.send(page)

    print(f"40 pages by 8 workers in {trio.current_time() - began_at:.1f} s")
    print(f"busiest second: {busiest} requests of 20 allowed; refused: {refused}")
    print(bucket)


if __name__ == "__main__":
    trio.run(main)
