"""One process that holds permits: `python -m tests.shared._semaphore_process '{"url": …}'`; prints its holds as JSON.

It says "ready", waits for a line, and then holds a permit again and again for some seconds, or until it has held so many. Each
hold is [fence, from, until], on the machine's monotonic clock. With "hang" it prints the fence of its first hold, and keeps it.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

import trio

from trioresil.redis import FailClosed, SharedSemaphore, open_redis


async def main(plan: dict[str, Any]) -> None:
    """Hold permits as the plan says."""
    holds: list[tuple[int | None, float, float]] = []
    chance = random.Random(plan["seed"])
    async with open_redis(plan["url"]) as engine:
        permits = SharedSemaphore(
            engine, "db", limit=plan["limit"], lease=plan["lease"], on_unavailable=FailClosed(), timeout=plan["timeout"]
        )
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        if plan["hang"]:
            async with permits as hold:
                print(json.dumps(hold.fence), flush=True)
                await trio.sleep_forever()

        async def use() -> None:
            while len(holds) < plan["holds"]:
                patience = chance.uniform(0.0, 0.05) if plan["impatient"] and chance.random() < 0.5 else float("inf")
                with trio.move_on_after(patience):
                    async with permits as hold:
                        began_at = time.monotonic()
                        try:
                            await trio.sleep(plan["hold_for"])
                        finally:
                            holds.append((hold.fence, began_at, time.monotonic()))

        with trio.move_on_after(plan["seconds"]):
            async with trio.open_nursery() as nursery:
                for _ in range(plan["tasks"]):
                    nursery.start_soon(use)
        print(json.dumps(holds))


if __name__ == "__main__":
    trio.run(main, json.loads(sys.argv[1]))
