"""Objects at module level, through three runs in turn, on the system's clock and on virtual ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

import trioresil
from tests._scripts import FORMS, Form


class Passing(Exception):
    """Worth another attempt in these tests."""


RETRY = trioresil.Retry(on=Passing, backoff=[0], budget=trioresil.RetryBudget(ratio=0.5, min_per_second=0, window=1e6))
TIMEOUT = trioresil.Timeout(1e6, name="total")
calls: list[str] = []


async def alternative(what: str) -> str:
    calls.append(f"alternative {what}")
    return "other"


FALLBACK = trioresil.Fallback(alternative, on=Passing)


@FALLBACK
@TIMEOUT
@RETRY
async def fetch(what: str) -> str:
    calls.append(what)
    raise Passing


CLOCKS: dict[str, Callable[[int], Any]] = {
    "system": lambda run: None,
    "virtual": lambda run: trio.testing.MockClock(autojump_threshold=0),
    "both": lambda run: trio.testing.MockClock(rate=run + 1.0) if run % 2 else None,
}


@pytest.mark.parametrize("clock", CLOCKS)
def test_decorated_function_works_in_every_run(clock: str) -> None:
    assert RETRY.budget is not None
    available = RETRY.budget.statistics().available  # it goes on with what it has
    for run in range(3):
        calls.clear()
        assert trio.run(fetch, "x", clock=CLOCKS[clock](run)) == "other"
        available += 0.5
        retries = int(available)
        available -= retries
        assert calls == ["x"] * (1 + retries) + ["alternative x"]
        assert RETRY.budget.statistics().available == available


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("form", FORMS.values())
def test_same_retry_counts_anew_in_every_run(form: Form, clock: str) -> None:
    retry = trioresil.Retry(on=Passing, backoff=[0], max_attempts=3)
    attempts: list[int] = []

    async def work() -> None:
        attempts[-1] += 1
        raise Passing

    for run in range(3):
        attempts.append(0)
        with pytest.raises(Passing):
            trio.run(form, retry, work, clock=CLOCKS[clock](run))
    assert attempts == [3, 3, 3]


def test_waits_are_exact_in_every_run() -> None:
    retry = trioresil.Retry(on=Passing, backoff=[0.5, 2])

    async def main(began_at: float) -> list[float]:
        times: list[float] = []
        await trio.sleep(began_at)

        async def work() -> None:
            times.append(trio.current_time() - began_at)
            if len(times) < 3:
                raise Passing

        await retry.call(work)
        return times

    for began_at in (0, 4096, 16):
        clock = trio.testing.MockClock(autojump_threshold=0)
        assert trio.run(main, began_at, clock=clock) == [0, 0.5, 2.5]


async def _block() -> None:
    async with TIMEOUT, trioresil.Timeout(100):
        await trio.lowlevel.checkpoint()


async def _late_block() -> None:
    async with trioresil.Timeout(0.5):
        await trio.sleep(1)


@pytest.mark.parametrize("work", [_block, _late_block])
def test_timeout_block_works_in_every_run(work: Callable[[], Awaitable[None]]) -> None:
    for _ in range(3):
        if work is _block:
            trio.run(work)
        else:
            with pytest.raises(trioresil.TimedOutError):
                trio.run(work, clock=trio.testing.MockClock(autojump_threshold=0))
    assert TIMEOUT._open == {}
