"""Four workers of a fleet keep one rate, one limit of calls at once and one circuit, as four processes would over one server.

Here they run in one program over a MemoryEngine, so that it needs no server. In yours, each process opens
`open_redis("redis://…")` where this one makes the MemoryEngine; nothing else changes.
"""

from __future__ import annotations

import logging
import sys

import trio

import trioresil
from trioresil.redis import (
    FailClosed,
    FailLocal,
    MemoryEngine,
    ScriptEngine,
    SharedCircuitBreaker,
    SharedSemaphore,
    SharedTokenBucket,
)

CLOCK = "virtual"
PROCESSES = 4


class Service:
    """What the fleet calls: it says no to the third call at once, and is down for a while."""

    def __init__(self) -> None:
        self.inside = self.most_inside = self.calls = 0
        self.down = False

    async def get(self) -> None:
        """Answer after half a second."""
        if self.down:
            raise ConnectionError("refused")
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.calls += 1
        try:
            await trio.sleep(0.5)
        finally:
            self.inside -= 1


def client(engine: ScriptEngine) -> tuple[trioresil.Pipeline, SharedCircuitBreaker]:
    """Build what each process builds."""
    breaker = SharedCircuitBreaker(
        engine, "orders", trip=trioresil.ConsecutiveFailures(3), open_for=5, on_unavailable=FailLocal()
    )
    limits = trioresil.Pipeline(
        breaker,
        SharedTokenBucket(engine, "orders", rate=10, capacity=1, on_unavailable=FailLocal(share=1 / PROCESSES)),
        SharedSemaphore(engine, "orders", limit=3, on_unavailable=FailClosed()),
    )
    return limits, breaker


async def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="  %(message)s")
    service = Service()
    async with MemoryEngine() as engine:
        fleet = [client(engine) for _ in range(PROCESSES)]
        began_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            for limits, _ in fleet:
                for _ in range(10):
                    nursery.start_soon(limits.call, service.get)
        took = trio.current_time() - began_at
        print(
            f"{service.calls} calls of {PROCESSES} processes in {took:.1f} s, never more than {service.most_inside} at once"
        )

        await trio.sleep(0.2)  # the last successes are told in batches, and would break the row of failures
        service.down = True
        limits, _ = fleet[0]
        for _ in range(3):
            try:
                await limits.call(service.get)
            except ConnectionError as error:
                print("one process sees:", error)
        await trio.sleep(0.1)
        refused = 0
        for limits, _ in fleet:
            try:
                await limits.call(service.get)
            except trioresil.CircuitOpenError:
                refused += 1
        print(f"{refused} of {PROCESSES} processes don't even try")

        service.down = False
        await trio.sleep(5)
        await fleet[-1][0].call(service.get)
        await trio.sleep(0.1)
        print("one probe later:", ", ".join(breaker.state.value for _, breaker in fleet))


if __name__ == "__main__":
    trio.run(main)
