"""One process of sections `shared` and `permits`: `python -m tests.bench._shared_child CONTENDER PORT TASKS`.

It opens its limiter, says so in a line, waits for a line that says for how many seconds to acquire, and prints how many it got.
The rate is so high that nobody ever waits for tokens: what is measured is the way to the server and back. A permit is held for a
while, though, and acquired again when it has come free.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import trio

RATE = 10_000_000.0
CAPACITY = 100_000.0
HOLD = 0.005
"""Seconds for which a permit is held."""
KEY = "bench"  # of the bucket; another one for each contender
Acquire = Callable[[], Awaitable[object]]

GCRA = """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local tat = tonumber(redis.call('GET', KEYS[1]) or '0')
if tat < now then tat = now end
local next = tat + ARGV[1]
if next - now > tonumber(ARGV[2]) then return tostring(next - now - ARGV[2]) end
redis.call('SET', KEYS[1], string.format('%.17g', next), 'PX', 10000)
return '0'
"""


# -- on Trio -------------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _ours(port: int, mode: str) -> AsyncIterator[Acquire]:
    from trioresil import redis

    modes: dict[str, Any] = {
        "Exact()": redis.Exact,
        "Combine()": redis.Combine,
        "Lease(100)": lambda: redis.Lease(tokens=100),
    }
    async with redis.open_redis(f"redis://127.0.0.1:{port}/0") as engine:
        refuse = redis.FailClosed()
        bucket = redis.SharedTokenBucket(
            engine, KEY, rate=RATE, capacity=CAPACITY, mode=modes[mode](), on_unavailable=refuse, timeout=5
        )
        yield bucket.acquire


@contextlib.asynccontextmanager
async def _script_alone(port: int) -> AsyncIterator[Acquire]:
    from trioresil._shared.redis_connections import Settings
    from trioresil._shared.redis_urls import read

    settings = Settings(read(f"redis://127.0.0.1:{port}/0"), None, 1.0, False)
    async with trio.open_nursery() as nursery:
        connection = await settings.connect(("127.0.0.1", port))
        nursery.start_soon(connection.run)
        await connection.greet(None, None, 0)
        sha = await connection.ask(b"SCRIPT", b"LOAD", GCRA)

        async def acquire() -> object:
            return await connection.ask(b"EVALSHA", sha, 1, "bench:script", str(1e6 / RATE), str(CAPACITY / RATE * 1e6))

        yield acquire
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def _script_on_a_connection_of_coredis(port: int) -> AsyncIterator[Acquire]:
    from coredis.connection import TCPConnection, TCPLocation

    async with trio.open_nursery() as nursery:
        connection = TCPConnection(TCPLocation("127.0.0.1", port))
        await nursery.start(connection.run)
        sha: Any = await connection.create_request(b"SCRIPT LOAD", GCRA)

        async def acquire() -> object:
            return await connection.create_request(
                b"EVALSHA", sha, 1, "bench:script", 1e6 / RATE, CAPACITY / RATE * 1e6
            )

        yield acquire
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def _script_by_coredis(port: int) -> AsyncIterator[Acquire]:
    import coredis

    client = coredis.Redis("127.0.0.1", port)
    async with client:
        sha = await client.script_load(GCRA)
        yield lambda: client.evalsha(sha, keys=["bench:client"], args=[1e6 / RATE, CAPACITY / RATE * 1e6])


# -- permits, each held for HOLD seconds ---------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _permits(port: int) -> AsyncIterator[Acquire]:
    from trioresil import redis

    async with redis.open_redis(f"redis://127.0.0.1:{port}/0") as engine:
        permits = redis.SharedSemaphore(engine, KEY, limit=1, on_unavailable=redis.FailClosed(), timeout=2)

        async def hold() -> None:
            async with permits:
                await trio.sleep(HOLD)

        yield hold


@contextlib.asynccontextmanager
async def _capacity_limiter(port: int) -> AsyncIterator[Acquire]:
    limiter = trio.CapacityLimiter(1)

    async def hold() -> None:
        async with limiter:
            await trio.sleep(HOLD)

    yield hold


@contextlib.asynccontextmanager
async def _lock_of_redis_py(port: int) -> AsyncIterator[Acquire]:
    from redis.asyncio import Redis

    client = Redis(host="127.0.0.1", port=port)

    async def hold() -> None:
        async with client.lock("bench:lock", timeout=10, sleep=0.001):
            await asyncio.sleep(HOLD)

    yield hold
    await client.aclose()


# -- on asyncio ----------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _limits(port: int) -> AsyncIterator[Acquire]:
    from limits import RateLimitItemPerSecond
    from limits.aio.storage import RedisStorage
    from limits.aio.strategies import FixedWindowRateLimiter

    storage = RedisStorage(f"async+redis://127.0.0.1:{port}/0", implementation="redispy")
    limiter = FixedWindowRateLimiter(storage)
    item = RateLimitItemPerSecond(int(RATE))
    yield lambda: limiter.hit(item, KEY)


@contextlib.asynccontextmanager
async def _throttled(port: int) -> AsyncIterator[Acquire]:
    from throttled.asyncio import RateLimiterType, Throttled, rate_limiter, store

    place = store.RedisStore(server=f"redis://127.0.0.1:{port}/0")
    quota = rate_limiter.per_sec(int(RATE), burst=int(CAPACITY))
    throttle = Throttled(key="bench:throttled", using=RateLimiterType.GCRA.value, quota=quota, store=place)
    yield lambda: throttle.limit("bench:throttled")


@contextlib.asynccontextmanager
async def _pyrate(port: int) -> AsyncIterator[Acquire]:
    from pyrate_limiter import Limiter, Rate, RedisBucket
    from redis.asyncio import Redis

    client = Redis(host="127.0.0.1", port=port)
    bucket = await RedisBucket.init(
        [Rate(int(RATE), 100)], client, "bench:pyrate"
    )  # a window of 0.1 s, so that its log stays short
    limiter = Limiter(bucket)
    yield lambda: limiter.try_acquire_async(KEY)
    limiter.close()
    await client.aclose()


ON_TRIO: dict[str, Callable[[int], Any]] = {
    "trioresil, Exact()": lambda port: _ours(port, "Exact()"),
    "trioresil, Combine()": lambda port: _ours(port, "Combine()"),
    "trioresil, Lease(100)": lambda port: _ours(port, "Lease(100)"),
    "the script alone, on trioresil's connection": _script_alone,
    "the script alone, on one of coredis's": _script_on_a_connection_of_coredis,
    "the script alone, through coredis's client": _script_by_coredis,
}
PERMITS_ON_TRIO: dict[str, Callable[[int], Any]] = {
    "trioresil, SharedSemaphore(limit=1)": _permits,
    "ideal: trio.CapacityLimiter(1), in one process": _capacity_limiter,
}
ON_ASYNCIO: dict[str, Callable[[int], Any]] = {
    "limits, fixed window": _limits,
    "throttled-py, GCRA": _throttled,
    "pyrate-limiter": _pyrate,
}
PERMITS_ON_ASYNCIO: dict[str, Callable[[int], Any]] = {"redis-py, Lock that looks every ms": _lock_of_redis_py}
_ALL_ON_TRIO = ON_TRIO | PERMITS_ON_TRIO
_ALL_ON_ASYNCIO = ON_ASYNCIO | PERMITS_ON_ASYNCIO


async def _trio(contender: str, port: int, tasks: int) -> int:
    acquired = 0
    async with _ALL_ON_TRIO[contender](port) as acquire:
        await acquire()
        ends_at = time.monotonic() + await trio.to_thread.run_sync(_ready)

        async def work() -> None:
            nonlocal acquired
            while time.monotonic() < ends_at:
                await acquire()
                acquired += 1

        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(work)
    return acquired


async def _asyncio(contender: str, port: int, tasks: int) -> int:
    acquired = 0
    async with _ALL_ON_ASYNCIO[contender](port) as acquire:
        await acquire()
        ends_at = time.monotonic() + await asyncio.to_thread(_ready)

        async def work() -> None:
            nonlocal acquired
            while time.monotonic() < ends_at:
                await acquire()
                acquired += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(work())
    return acquired


def _ready() -> float:
    print("ready", flush=True)
    return float(sys.stdin.readline())


def main() -> None:
    """Measure once."""
    contender, port, tasks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    began_at = time.process_time()
    on_trio = contender in _ALL_ON_TRIO
    measured = trio.run(_trio, contender, port, tasks) if on_trio else asyncio.run(_asyncio(contender, port, tasks))
    print(json.dumps({"acquired": measured, "cpu": time.process_time() - began_at}))


if __name__ == "__main__":
    main()
