"""Keep to an API's tokens per second over HTTP, and come through its 429s without losing a request.

All requests to an origin share its bucket. A request says what it will cost at most; what it did cost is settled when its answer
is there. A 429 with Retry-After pauses the bucket: everybody waits in its queue, in order, and goes on at its rate.
"""

from __future__ import annotations

import json
import logging
import sys

import httpx
import trio
from _server import Reply, Request, serve

import trioresil
from trioresil.httpx import RequestOptions, open_client


class Api:
    """The other side: it counts tokens, and shuts for a moment when it has had 12 requests."""

    def __init__(self) -> None:
        self.accepted = self.refused = self.tokens = 0
        self.shut_until = -1.0

    async def handle(self, request: Request) -> Reply:
        now = trio.current_time()
        if self.accepted == 12 and self.shut_until < 0:
            self.shut_until = now + 0.25
        if now < self.shut_until:
            self.refused += 1
            return Reply(429, headers={"Retry-After": f"{self.shut_until - now:.3f}"})  # real ones: in whole seconds
        self.accepted += 1
        self.tokens += 40
        return Reply(200, json.dumps({"usage": {"total_tokens": 40}}).encode())


async def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="  %(message)s")
    api = Api()
    buckets: trioresil.Keyed[str, trioresil.TokenBucket] = trioresil.Keyed(
        lambda origin: trioresil.TokenBucket(rate=2_000, capacity=500, name=origin)
    )
    statuses: list[int] = []
    attempts = 0

    async def complete(client: httpx.AsyncClient, prompt: str) -> None:
        nonlocal attempts
        estimate = 45 + len(prompt) / 4
        options = RequestOptions(tokens=estimate)
        response = await client.post("/complete", content=prompt, extensions={"trioresil": options})
        buckets[url].adjust(response.json()["usage"]["total_tokens"] - estimate)
        statuses.append(response.status_code)
        attempts += response.extensions["trioresil"].attempts

    began_at = trio.current_time()
    async with serve(api.handle) as url, open_client(base_url=url, bucket=buckets) as client:
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(complete, client, f"Question {number}: what is the time?")
        took = trio.current_time() - began_at
        print(f"{statuses.count(200)} of {len(statuses)} questions answered in {took:.1f} s, with {attempts} attempts")
        print(f"the API refused {api.refused} requests, and counted {api.tokens} tokens")
        print(buckets[url])


if __name__ == "__main__":
    trio.run(main)
