"""A pipeline of everything, cancelled at every moment: whatever one policy holds when another is cancelled comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from trioresil import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    ConsecutiveFailures,
    Fallback,
    Keyed,
    Pipeline,
    Retry,
    TimedOutError,
    Timeout,
    TokenBucket,
)
from trioresil.testing import Sweep, cancellation_sweep

Work = Callable[[str], Awaitable[str]]
Form = Callable[[Pipeline, Work], Awaitable[str]]


async def by_call(pipeline: Pipeline, work: Work) -> str:
    return await pipeline.call(work, "victim")


async def by_decorator(pipeline: Pipeline, work: Work) -> str:
    return await pipeline(work)("victim")


async def by_bind(pipeline: Pipeline, work: Work) -> str:
    return await pipeline.bind(work)("victim")


async def nested(pipeline: Pipeline, work: Work) -> str:
    return await Pipeline(Timeout(500), pipeline).call(work, "victim")


class Parts:
    """A pipeline whose stateful parts can be looked at."""

    def __init__(self, *, half_open: bool) -> None:
        self.breaker = CircuitBreaker(trip=ConsecutiveFailures(3), open_for=1.0)
        self.bucket = TokenBucket(rate=2, capacity=1)
        self.bulkhead = Bulkhead(1)
        self.attempts = 0
        self.running = 0
        keyed = Keyed(lambda key: self.bulkhead, key=lambda name: "one")
        self.pipeline = Pipeline(
            Fallback(on=LookupError, default="default"),
            Timeout(100),
            Retry(on=(OSError, CircuitOpenError, TimedOutError), backoff=[0.5], max_attempts=12),
            self.breaker,
            self.bucket,
            keyed,
            Timeout(20),
        )
        if half_open:
            self.breaker.open(0.25)

    async def work(self, name: str) -> str:
        self.attempts += 1
        self.running += 1
        try:
            assert self.running == 1
            await trio.sleep(0.25)
            if self.attempts == 1:
                raise OSError("the first attempt fails")
            await trio.sleep(0.25)
        finally:
            self.running -= 1
        return name

    def check_quiet(self) -> None:
        statistics = self.bulkhead.statistics()
        assert not (statistics.waiting and statistics.borrowed < statistics.limit), "free and queued"
        assert statistics.borrowed == self.running

    def check_whole(self) -> None:
        assert self.bulkhead.statistics().inside == self.bulkhead.statistics().waiting == 0
        assert self.breaker.statistics().inside == self.breaker.statistics().probes_out == 0
        assert self.bucket.statistics().waiting == 0
        assert (
            self.attempts <= self.bucket.statistics().granted <= self.attempts + 2
        )  # taken, then cancelled in a queue


@pytest.mark.parametrize("half_open", [False, True], ids=["closed", "half-open"])
@pytest.mark.parametrize("form", [by_call, by_decorator, by_bind, nested])
def test_a_cancelled_call_leaves_nothing_behind_in_any_part(form: Form, half_open: bool) -> None:
    async def scenario(sweep: Sweep) -> None:
        parts = Parts(half_open=half_open)
        sweep.when_quiet(parts.check_quiet)
        results: dict[str, Any] = {}

        async def neighbour(name: str) -> None:
            results[name] = await parts.pipeline.call(parts.work, name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(neighbour, "before")
            await trio.sleep(0.125)
            nursery.start_soon(neighbour, "beside")
            with sweep.victim():
                results["victim"] = await form(parts.pipeline, parts.work)
        parts.check_whole()
        expected = {"before": "before", "beside": "beside", "victim": "victim"}
        if sweep.victim_cancelled:
            del expected["victim"]
        assert results == expected
        assert parts.breaker.state is CircuitState.CLOSED
        with trio.fail_after(5):  # and all of it still works
            assert await parts.pipeline.call(parts.work, "after") == "after"

    report = cancellation_sweep(scenario)
    assert report.cancelled > 30
