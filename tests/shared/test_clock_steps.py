"""A server whose clock is really set by an hour, either way: nobody waits longer for it, and nobody gets in who may not."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests._programs import program
from tests.shared._servers import Server, Servers, until
from trioresil import CircuitOpenError, ConsecutiveFailures
from trioresil.redis import (
    FailClosed,
    ScriptEngine,
    SharedCircuitBreaker,
    SharedSemaphore,
    SharedTokenBucket,
    open_redis,
)

HOUR = 3600
STEPS = pytest.mark.parametrize("step", [HOUR, -HOUR], ids=["on", "back"])
PATIENCE = 0.5
"""Longest wait that the tests ask for, in seconds."""
SLACK = 0.5
"""Of a machine that is busy."""
pytestmark = pytest.mark.slow


class Clock:
    """The clock of one server, by the library of the package faketime."""

    def __init__(self, server: Server) -> None:
        program("faketime", package="faketime")
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
        self._server, self._file = server, server.folder / "clock"
        self._file.write_text("+0")
        server.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        """Set it to the right time and so many seconds, and see that it is: it may look at its file a little later."""
        self._file.write_text(f"{seconds:+}")
        until(lambda: abs(int(self._server.command("TIME")[0]) - time.time() - seconds) < 10, "the clock is set")


@asynccontextmanager
async def engine_and_clock(servers: Servers) -> AsyncIterator[tuple[ScriptEngine, Clock]]:
    server = servers.new("valkey", start=False)
    clock = Clock(server)
    server.start()
    async with open_redis(server.url) as engine:
        yield engine, clock


async def use(clock: Clock, step: int, tasks: int, once: Callable[[], Awaitable[None]]) -> tuple[list[int], float]:
    """Do something again and again for 2 s, with the clock set after 0.5 s and right again after 1.3 s.

    Return how often it was done in each of the three times, and how long it took at most.
    """
    done, longest, part = [0, 0, 0], 0.0, 0

    async def work() -> None:
        nonlocal longest
        while True:
            began_at = trio.current_time()
            await once()
            longest = max(longest, trio.current_time() - began_at)
            done[part] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(work)
        await trio.sleep(0.5)
        part = 1
        clock.set(step)
        await trio.sleep(0.8)
        part = 2
        clock.set(0)
        await trio.sleep(0.7)
        nursery.cancel_scope.cancel()
    return done, longest


@STEPS
async def test_bucket_goes_on_at_its_rate(servers: Servers, step: int) -> None:
    async with engine_and_clock(servers) as (engine, clock):
        bucket = SharedTokenBucket(
            engine, "api", rate=100, capacity=5, max_wait=PATIENCE, on_unavailable=FailClosed(), timeout=5
        )
        done, longest = await use(clock, step, 20, bucket.acquire)
        assert longest <= PATIENCE + SLACK
        assert all(count >= 20 for count in done)
        assert sum(done) <= 100 * 2.5 + 3 * 5  # what the bucket held on is forgotten with its key, at each step


@STEPS
async def test_semaphore_lets_nobody_in_beside_a_holder(servers: Servers, step: int) -> None:
    async with engine_and_clock(servers) as (engine, clock):
        permits = SharedSemaphore(
            engine, "db", limit=1, lease=1.5, max_wait=1.5, on_unavailable=FailClosed(), timeout=0.3
        )
        inside = most = 0
        fences: list[int] = []

        async def hold() -> None:
            nonlocal inside, most
            async with permits as hold:
                inside += 1
                most = max(most, inside)
                fences.append(hold.fence or 0)
                try:
                    await trio.sleep(0.02)
                finally:
                    inside -= 1

        done, longest = await use(clock, step, 5, hold)
        assert longest <= 1.5 + SLACK
        assert all(count >= 3 for count in done)
        assert most == 1
        assert fences == sorted(set(fences))


@STEPS
async def test_circuit_is_probed_as_if_nothing_had_happened(servers: Servers, step: int) -> None:
    async with engine_and_clock(servers) as (engine, clock):
        circuit = SharedCircuitBreaker(
            engine, "api", trip=ConsecutiveFailures(2), open_for=PATIENCE, on_unavailable=FailClosed(), timeout=0.3
        )

        async def fail() -> None:
            raise OSError

        for _ in range(2):
            with pytest.raises(OSError, match=r"^$"):
                await circuit.call(fail)
        with trio.fail_after(2 * PATIENCE + SLACK):
            with pytest.raises(CircuitOpenError):
                while True:
                    await circuit.call(trio.sleep, 0.001)
            clock.set(step)
            while True:
                try:
                    await circuit.call(trio.sleep, 0)
                    break
                except CircuitOpenError:
                    await trio.sleep(0.01)
