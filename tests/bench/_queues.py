"""Sections `handoff`, `drain` and `grants`: what waiting in a token bucket's queue costs, and how exact its rate is."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

import trioresil

from . import _rivals
from ._measure import Plan, collector_off

Acquire = Callable[[], Awaitable[object]]
POLL_INTERVAL = 0.1  # seconds

# -- handoff: nobody sleeps --------------------------------------------------------------------------------------------


def handoff(plan: Plan) -> dict[str, dict[str, float]]:
    """Measure CPU µs for an acquire in a queue that moves as fast as it can, the spawning of its tasks subtracted."""
    runs: dict[str, Callable[[int], float]] = {
        "trioresil.TokenBucket": lambda waiters: trio.run(_bucket_handoff, waiters),
        "trioresil.TokenBucket, as a decorator": lambda waiters: trio.run(_decorated_handoff, waiters),
        "CapacityLimiter(1), async with": lambda waiters: trio.run(_limiter_handoff, waiters),
        _SPAWN: lambda waiters: trio.run(_spawn_only, waiters),
    }
    table: dict[str, dict[str, float]] = {}
    for waiters in plan.waiters:
        costs = _interleave(runs, waiters, plan, plan.repeats(waiters * 5))
        spawn = costs.pop(_SPAWN)
        table[str(waiters)] = {key: cost - spawn for key, cost in costs.items()}
    return table


_SPAWN = "spawn"


def _interleave(runs: dict[str, Callable[[int], float]], waiters: int, plan: Plan, repeats: int) -> dict[str, float]:
    samples: dict[str, list[float]] = {key: [] for key in runs}
    order = list(runs)
    shuffle = random.Random(plan.seed).shuffle
    for _ in range(repeats):
        shuffle(order)
        for key in order:
            with collector_off():
                samples[key].append(runs[key](waiters) / waiters * 1e6)
    return {key: statistics.median(values) for key, values in samples.items()}


async def _queue_up(acquire: Acquire, waiters: int, release: Callable[[], object]) -> float:
    """Let tasks queue, then release them; CPU seconds from the first spawn to the end of the last task."""
    began = time.thread_time()
    async with trio.open_nursery() as nursery:
        for _ in range(waiters):
            nursery.start_soon(acquire)
        await wait_all_tasks_blocked()
        release()
    return time.thread_time() - began


_DEBT = 3600.0  # seconds that the bucket is in debt while its queue forms


async def _bucket_handoff(waiters: int) -> float:
    bucket = trioresil.TokenBucket(rate=1e9)
    bucket.adjust(_DEBT * bucket.rate)
    return await _queue_up(bucket.acquire, waiters, lambda: bucket.adjust(-_DEBT * bucket.rate))


async def _decorated_handoff(waiters: int) -> float:
    bucket = trioresil.TokenBucket(rate=1e9)
    bucket.adjust(_DEBT * bucket.rate)
    return await _queue_up(bucket(_nothing), waiters, lambda: bucket.adjust(-_DEBT * bucket.rate))


async def _limiter_handoff(waiters: int) -> float:
    limiter = trio.CapacityLimiter(1)
    holder = object()
    limiter.acquire_on_behalf_of_nowait(holder)

    async def acquire() -> None:
        async with limiter:
            pass

    return await _queue_up(acquire, waiters, lambda: limiter.release_on_behalf_of(holder))


async def _spawn_only(waiters: int) -> float:
    return await _queue_up(_nothing, waiters, lambda: None)


async def _nothing() -> None:
    pass


# -- drain: a queue at its rate ----------------------------------------------------------------------------------------


def drain(plan: Plan) -> dict[str, dict[str, dict[str, float]]]:
    """Measure, for queues that drain at a rate: CPU µs for an acquire, spawning included, and the share served in time.

    Everybody has the same rate and the same burst of a hundredth of the queue. After one and a half times the ideal time who
    still waits is cancelled.
    """
    return {str(waiters): _drain(waiters, plan) for waiters in plan.waiters}


def _drain(waiters: int, plan: Plan) -> dict[str, dict[str, float]]:
    seconds = plan.drain_seconds * (5 if waiters > 10_000 else 1)
    samples: dict[str, list[tuple[float, float]]] = {}
    runs = _drains()
    order = list(runs)
    shuffle = random.Random(plan.seed).shuffle
    for _ in range(min(3, plan.repeats(waiters * 10))):
        shuffle(order)
        for key in order:
            with collector_off():
                samples.setdefault(key, []).append(runs[key](waiters, seconds))
    return {
        key: {
            "us_per_acquire": statistics.median(cpu / max(1, served * waiters) * 1e6 for cpu, served in values),
            "served": statistics.median(served for _, served in values),
        }
        for key, values in samples.items()
    }


def _drains() -> dict[str, Callable[[int, float], tuple[float, float]]]:
    runs: dict[str, Callable[[int, float], tuple[float, float]]] = {
        "trioresil.TokenBucket (Trio)": partial(_on_trio, _bucket),
        f"polling every {POLL_INTERVAL:g} s (Trio)": partial(_on_trio, _polling),
    }
    if _rivals.module("aiolimiter"):
        runs["aiolimiter (asyncio)"] = partial(_on_asyncio, _aiolimiter)
    if _rivals.module("pyrate-limiter"):
        runs["pyrate-limiter, token bucket (asyncio)"] = partial(_on_asyncio, _pyrate_limiter)
    return runs


def _burst(waiters: int) -> int:
    return max(1, waiters // 100)


def _bucket(waiters: int, seconds: float) -> Acquire:
    return trioresil.TokenBucket(rate=waiters / seconds, capacity=_burst(waiters)).acquire


def _polling(waiters: int, seconds: float) -> Acquire:
    rate, capacity = waiters / seconds, _burst(waiters)
    zero = -math.inf

    async def acquire() -> None:
        nonlocal zero
        while (ready_at := max(zero, (now := trio.current_time()) - capacity / rate) + 1 / rate) > now:  # noqa: ASYNC110  # on purpose
            await trio.sleep(POLL_INTERVAL)
        zero = ready_at

    return acquire


def _aiolimiter(waiters: int, seconds: float) -> Acquire:
    burst = _burst(waiters)
    acquire: Acquire = _rivals.module("aiolimiter").AsyncLimiter(burst, seconds * burst / waiters).acquire
    return acquire


def _pyrate_limiter(waiters: int, seconds: float) -> Acquire:
    kit = _rivals.module("pyrate-limiter")
    rate = kit.Rate(waiters, max(1, round(seconds * 1000)), burst=_burst(waiters))
    limiter = kit.Limiter(kit.StateBucket([rate], algorithm=kit.TokenBucket()))
    return partial(limiter.try_acquire_async, "key")


def _on_trio(make: Callable[[int, float], Acquire], waiters: int, seconds: float) -> tuple[float, float]:
    return trio.run(_drain_on_trio, make(waiters, seconds), waiters, seconds)


async def _drain_on_trio(acquire: Acquire, waiters: int, seconds: float) -> tuple[float, float]:
    served = 0

    async def waiter() -> None:
        nonlocal served
        await acquire()
        served += 1

    began = time.process_time()
    with trio.move_on_after(seconds * 1.5):
        async with trio.open_nursery() as nursery:
            for _ in range(waiters):
                nursery.start_soon(waiter)
    return time.process_time() - began, served / waiters


def _on_asyncio(make: Callable[[int, float], Acquire], waiters: int, seconds: float) -> tuple[float, float]:
    return asyncio.run(_drain_on_asyncio(make, waiters, seconds))


async def _drain_on_asyncio(make: Callable[[int, float], Acquire], waiters: int, seconds: float) -> tuple[float, float]:
    acquire = make(waiters, seconds)
    served = 0

    async def waiter() -> None:
        nonlocal served
        await acquire()
        served += 1

    began = time.process_time()
    tasks = [asyncio.create_task(waiter()) for _ in range(waiters)]
    _, pending = await asyncio.wait(tasks, timeout=seconds * 1.5)
    spent, share = time.process_time() - began, served / waiters
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    return spent, share


# -- grants: how exact the rate is -------------------------------------------------------------------------------------

RATE = 4_000.0


def grants(plan: Plan) -> dict[str, float]:
    """Measure how long so many grants at 4 kHz take, capacity 1; seconds, the median of five."""
    runs: dict[str, Callable[[], float]] = {
        "trioresil, a queue": lambda: trio.run(_grants_to_many, plan.grants),
        "trioresil, one task": lambda: trio.run(_grants_to_one, plan.grants),
    }
    if _rivals.module("aiolimiter"):
        runs["aiolimiter, a queue (asyncio)"] = lambda: asyncio.run(_aiolimiter_grants(plan.grants))
    repeats = range(min(5, plan.rounds))
    samples: dict[str, list[float]] = {key: [] for key in runs}
    for _ in repeats:
        for key, run in runs.items():
            samples[key].append(run())
    return {"ideal": (plan.grants - 1) / RATE} | {key: statistics.median(each) for key, each in samples.items()}


async def _grants_to_many(count: int) -> float:
    """Time from the first to the last grant to a queue that was there before: forming it holds the loop up for long."""
    bucket = trioresil.TokenBucket(rate=RATE)
    bucket.pause(count / RATE)
    granted: list[float] = []

    async def waiter() -> None:
        await bucket.acquire()
        granted.append(time.perf_counter())

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(waiter)
    return granted[-1] - granted[0]


async def _grants_to_one(count: int) -> float:
    bucket = trioresil.TokenBucket(rate=RATE)
    began = time.perf_counter()
    for _ in range(count):
        await bucket.acquire()
    return time.perf_counter() - began


async def _aiolimiter_grants(count: int) -> float:
    limiter: Any = _rivals.module("aiolimiter").AsyncLimiter(1, 1 / RATE)
    granted: list[float] = []

    async def waiter() -> None:
        await limiter.acquire()
        granted.append(time.perf_counter())

    await asyncio.gather(*(waiter() for _ in range(count)))
    return granted[-1] - granted[0]
