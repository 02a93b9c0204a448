"""TokenBucket: the bound in every window, and the rate, whoever cancels and however late the timers are."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests._limits import LateClock, TickingClock, most_above_the_line
from trioresil import TokenBucket

CREDIT = 0.01  # seconds

Grants = list[tuple[float, float]]


@attrs.frozen
class Customer:
    """One acquire: when it comes, how many tokens it wants, and when it is cancelled or blocks the program."""

    comes: float
    tokens: float
    patience: float
    stall: float


def bucket_for_customers(rate: float, capacity: float) -> TokenBucket:
    return TokenBucket(rate=rate, capacity=capacity, cost=lambda each: each.tokens)


def serve(customers: list[Customer], bucket: TokenBucket, clock: LateClock) -> tuple[Grants, int]:
    """Run all customers; return the grants as (time, tokens), and how many were cancelled."""
    grants: Grants = []
    cancelled = 0

    @bucket
    async def work(each: Customer) -> None:
        grants.append((trio.current_time(), each.tokens))  # in the step of the grant
        clock.now += each.stall

    async def customer(each: Customer) -> None:
        nonlocal cancelled
        await trio.sleep(each.comes)
        with trio.move_on_after(each.patience) as scope:
            await work(each)
        cancelled += scope.cancelled_caught

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for each in customers:
                nursery.start_soon(customer, each)

    trio.run(main, clock=clock)
    assert bucket.statistics().waiting == 0
    assert bucket.statistics().waiting_tokens == 0
    assert len(grants) + cancelled == len(customers)
    return grants, cancelled


CAPACITY = 4
moments = st.one_of(st.just(0.0), st.floats(0, 0.05), st.floats(0, 3))
patience = st.one_of(st.just(1e6), st.floats(0, 0.05), st.floats(0, 2))
stalls = st.sampled_from([0.0] * 12 + [0.003, 0.05, 2.0])
customers = st.builds(Customer, moments, st.sampled_from([0.5, 1, 1, 2, 4]), patience, stalls)


@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(
    rate=st.sampled_from([0.7, 3.0, 100.0, 4000.0]),
    customers=st.lists(customers, min_size=10, max_size=60),
    lateness=st.sampled_from([0.0, 0.0005, 0.001, 0.009, 0.02]),
    seed=st.integers(0, 1000),
    ticking=st.booleans(),
)
def test_no_window_is_exceeded_whoever_cancels_and_whatever_stalls(
    rate: float, customers: list[Customer], lateness: float, seed: int, ticking: bool
) -> None:
    late = random.Random(seed)
    clock = (TickingClock if ticking else LateClock)(lambda: lateness * late.random())
    grants, _ = serve(customers, bucket_for_customers(rate=rate, capacity=CAPACITY), clock)
    assert most_above_the_line(grants, rate) <= CAPACITY + rate * (CREDIT + 1e-9)


def test_the_measure_of_windows_sees_one_that_is_exceeded() -> None:
    assert most_above_the_line([(0, 4), (1, 2), (1, 1)], rate=2) == 5
    assert most_above_the_line([(0, 1), (10, 4), (11, 3), (20, 1)], rate=2) == 5


@pytest.mark.parametrize("capacity", [1, 3])
def test_queue_that_was_stalled_for_two_seconds_gets_no_backlog(capacity: float) -> None:
    bucket = bucket_for_customers(rate=100, capacity=capacity)
    crowd = [Customer(number * 1e-6, 1, 1e6, 2.0 if number == 300 else 0) for number in range(600)]
    grants, _ = serve(crowd, bucket, LateClock())
    gap = max(range(1, len(grants)), key=lambda index: grants[index][0] - grants[index - 1][0])
    before, after = grants[gap - 1][0], grants[gap][0]
    assert after - before == pytest.approx(2, abs=0.02)
    at_once = sum(tokens for at, tokens in grants[gap:] if at - after < 0.0001)
    assert capacity <= at_once <= capacity + 1
    assert most_above_the_line(grants, 100) <= capacity + 100 * (CREDIT + 1e-9)


def test_idle_bucket_gets_no_credit_for_lateness() -> None:
    bucket = bucket_for_customers(rate=100, capacity=1)
    grants, _ = serve([Customer(step * 0.5, 1, 0.001, 0) for step in range(6) for _ in range(5)], bucket, LateClock())
    assert len(grants) == 6


@pytest.mark.parametrize("clock", [functools.partial(LateClock, lambda: 0.001), TickingClock])
@pytest.mark.parametrize("rate", [50, 1000, 4000])
def test_timers_that_are_a_millisecond_late_cost_no_rate(clock: Callable[[], LateClock], rate: float) -> None:
    bucket = bucket_for_customers(rate=rate, capacity=1)
    grants, _ = serve([Customer(0, 1, 1e6, 0)] * 1000, bucket, clock())
    assert grants[-1][0] - grants[0][0] == pytest.approx(999 / rate, abs=0.0021)


def test_a_clock_of_one_great_tick_cannot_make_the_head_spin() -> None:
    bucket = bucket_for_customers(rate=3, capacity=1)
    clock = LateClock()
    clock.now = 2.0**52  # where times are whole seconds
    grants, _ = serve([Customer(0, 1, 1e6, 0)] * 12, bucket, clock)
    assert len(grants) == 12
