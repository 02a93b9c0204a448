"""One process that goes through a circuit: `python -m tests.shared._breaker_process '{"url": …}'`; prints its probes as JSON.

It says "ready" once it knows that the circuit is open, waits for a line, and then calls with many tasks again and again until
the circuit is closed. Each call let in is [from, until], on the machine's monotonic clock. With "hang" it prints when its probe
began, and keeps its slot.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import trio

from trioresil import CircuitOpenError, CircuitState, ConsecutiveFailures
from trioresil.redis import FailClosed, SharedCircuitBreaker, open_redis


async def main(plan: dict[str, Any]) -> None:
    """Go through the circuit as the plan says."""
    calls: list[tuple[float, float]] = []
    async with open_redis(plan["url"]) as engine:
        circuit = SharedCircuitBreaker(
            engine,
            "api",
            trip=ConsecutiveFailures(3),
            open_for=plan["open_for"],
            probe_lease=plan["lease"],
            on_unavailable=FailClosed(),
            timeout=5,
        )
        while circuit.state is CircuitState.CLOSED:
            try:
                async with circuit.admit() as admission:
                    admission.fail()
            except CircuitOpenError:
                pass
            await trio.sleep(0.01)
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)

        async def probe() -> None:
            began_at = time.monotonic()
            if plan["hang"]:
                print(json.dumps(began_at), flush=True)
                await trio.sleep_forever()
            await trio.sleep(0.05)
            calls.append((began_at, time.monotonic()))

        async def use() -> None:
            while circuit.state is not CircuitState.CLOSED:
                try:
                    await circuit.call(probe)
                except CircuitOpenError:
                    await trio.sleep(0.005)

        async with trio.open_nursery() as nursery:
            for _ in range(plan["tasks"]):
                nursery.start_soon(use)
        print(json.dumps(calls))


if __name__ == "__main__":
    trio.run(main, json.loads(sys.argv[1]))
