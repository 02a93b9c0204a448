"""acquire_all over shared buckets: all or nothing, in one step on the server."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trioresil
from tests.shared._windows import excess
from trioresil import RateLimitedError, SharedStateUnavailableError, TokenBucket, acquire_all
from trioresil.redis import FailClosed, FailLocal, FailOpen, MemoryEngine, SharedTokenBucket
from trioresil.testing import Sweep, cancellation_sweep


def bucket(engine: MemoryEngine, name: str, rate: float, capacity: float = 1, **options: Any) -> SharedTokenBucket:
    options = {"on_unavailable": FailClosed(), **options}
    return SharedTokenBucket(engine, name, rate=rate, capacity=capacity, **options)


async def test_all_are_taken_in_one_round_trip_at_the_instant_of_the_slowest(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        requests, tokens = bucket(engine, "requests", 2), bucket(engine, "tokens", 100, 50)
        await acquire_all((requests, 1), (tokens, 50))
        assert engine.statistics().evaluations == 1
        began_at = trio.current_time()
        await acquire_all((tokens, 50), (requests, 1))
        assert trio.current_time() - began_at == pytest.approx(0.5, abs=1e-5)
        await acquire_all((requests, 1), (tokens, 10))
        assert trio.current_time() - began_at == pytest.approx(1.0, abs=1e-5)
        assert (requests.statistics().granted, tokens.statistics().granted) == (3, 3)


async def test_tokens_that_are_used_later_are_dated_later(autojump_clock: MockClock) -> None:
    """A bucket that is ready before the slowest one must not let others take the same window in between."""
    used: list[tuple[float, float]] = []

    async def alone(fast: SharedTokenBucket) -> None:
        await fast.acquire(4)
        used.append((trio.current_time(), 4))

    async with MemoryEngine() as engine, trio.open_nursery() as nursery:
        slow, fast = bucket(engine, "slow", 0.25), bucket(engine, "fast", 2, 4)
        await slow.acquire()
        nursery.start_soon(alone, fast)
        await trio.testing.wait_all_tasks_blocked()
        await acquire_all((slow, 1), (fast, 4))
        used.append((trio.current_time(), 4))
        nursery.start_soon(alone, fast)
    assert excess(used, rate=2, burst=4) < 1e-4


async def test_a_bucket_that_refuses_leaves_the_others_as_they_are(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        patient, strict = bucket(engine, "patient", 1), bucket(engine, "strict", 1, max_wait=0.5)
        await strict.acquire()
        with pytest.raises(RateLimitedError, match="strict: rate limit reached: the wait would be 1 s") as caught:
            await acquire_all((patient, 1), (strict, 1))
        assert caught.value.retry_after == pytest.approx(1, abs=1e-5)
        began_at = trio.current_time()
        await patient.acquire()
        assert trio.current_time() == began_at
        assert (patient.statistics().rejected, strict.statistics().rejected) == (0, 1)


def test_cancelled_at_any_moment_all_is_given_back() -> None:
    async def scenario(sweep: Sweep) -> None:
        async with MemoryEngine(latency=0.001) as engine:
            one, other = bucket(engine, "one", 1), bucket(engine, "other", 2, 2)
            await one.acquire()
            with sweep.victim():
                await acquire_all((one, 1), (other, 2))
            if sweep.victim_cancelled:
                await trio.sleep(0.01)
                began_at = trio.current_time()
                await other.acquire(2)
                assert trio.current_time() - began_at < 0.01
                await one.acquire()
                assert trio.current_time() < max(1.01, began_at + 0.01)

    assert cancellation_sweep(scenario).cancelled > 3


@pytest.mark.parametrize("slow_answer", [False, True])
async def test_without_a_server_each_says_what_it_said(slow_answer: bool, autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        opened, closed = bucket(engine, "open", 1, on_unavailable=FailOpen()), bucket(engine, "closed", 1)
        local = bucket(engine, "local", 4, 4, on_unavailable=FailLocal(share=0.5))
        if slow_answer:
            engine.freeze()
        else:
            engine.kill()
        began_at = trio.current_time()
        await acquire_all((opened, 1))
        with pytest.raises(SharedStateUnavailableError, match="closed: key"):
            await acquire_all((opened, 1), (closed, 1))
        budget = 0.05 * slow_answer
        assert trio.current_time() - began_at == pytest.approx(budget)
        await acquire_all((opened, 1), (local, 4))
        await acquire_all((opened, 1), (local, 1))
        assert trio.current_time() - began_at == pytest.approx(budget + 1.5)


async def test_what_cannot_be_taken_together_is_refused_at_once(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine, MemoryEngine(name="another") as another:
        here = bucket(engine, "here", 1)
        with pytest.raises(TypeError, match="buckets of one kind"):
            await acquire_all((here, 1), (TokenBucket(rate=1), 1))
        with pytest.raises(ValueError, match="buckets of one engine, not of 'memory', 'another'"):
            await acquire_all((here, 1), (bucket(another, "there", 1), 1))
        with pytest.raises(ValueError, match="the same bucket twice"):
            await acquire_all((here, 1), (here, 1))
        with pytest.raises(ValueError, match="the same bucket twice"):
            await acquire_all((here, 1), (bucket(engine, "here", 1), 1))
        with pytest.raises(ValueError, match="more than the capacity"):
            await acquire_all((here, 2))
        await here.acquire()  # none of these has taken anything
        assert trio.current_time() == 0
        assert trioresil.redis.MemoryEngine is MemoryEngine


def test_a_group_is_where_buckets_lie() -> None:
    engine = MemoryEngine()
    assert bucket(engine, "a", 1, group="limits")._key == "trioresil:{limits}:bucket:a"
    assert bucket(engine, "a", 1)._key == "trioresil:{a}:bucket"
    with pytest.raises(ValueError, match="group must be text without braces"):
        bucket(engine, "a", 1, group="{}")
