"""One process that takes tokens: `python -m tests.shared._bucket_process '{"url": …}'`; prints what it got as JSON.

It says "ready", waits for a line, takes tokens for some seconds, and tells of each grant when it woke up, on the machine's
monotonic clock, and where its slot on the server ends.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

import trio

from trioresil.redis import Combine, Exact, FailClosed, Lease, SharedTokenBucket, open_redis

MODES: dict[str, Any] = {"exact": Exact(), "combine": Combine(), "lease": Lease(tokens=5, max_age=60)}


class Recording(SharedTokenBucket):
    """Notes the slots that it granted."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.used: list[tuple[float, float]] = []

    def _leave(self, waiter: Any) -> None:
        if waiter.granted:
            self.used.append(waiter.slot.end)
        super()._leave(waiter)


async def main(plan: dict[str, Any]) -> None:
    """Take tokens as the plan says."""
    woke: list[float] = []
    chance = random.Random(plan["seed"])
    async with open_redis(plan["url"]) as engine:
        bucket = Recording(
            engine,
            "limit",
            rate=plan["rate"],
            capacity=plan["capacity"],
            mode=MODES[plan["mode"]],
            on_unavailable=FailClosed(),
            timeout=5,
        )
        if plan["hoard"]:
            await bucket.acquire()
            woke.append(time.monotonic())
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)

        async def take() -> None:
            while True:
                patience = chance.uniform(0.0, 2 * 100 / plan["rate"]) if plan["impatient"] else float("inf")
                with trio.move_on_after(patience):
                    await bucket.acquire()
                    woke.append(time.monotonic())

        with trio.move_on_after(plan["seconds"]):
            async with trio.open_nursery() as nursery:
                for _ in range(plan["tasks"]):
                    nursery.start_soon(take)
        print(json.dumps({"woke": woke, "used": bucket.used}))


if __name__ == "__main__":
    trio.run(main, json.loads(sys.argv[1]))
