"""One object goes through many runs, one at a time: RunClock, and every policy with state across three runs."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.abc
import trio.testing

from trioresil import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    ConsecutiveFailures,
    FailureRatio,
    Keyed,
    Pipeline,
    RateLimitedError,
    Retry,
    RetryBudget,
    Timeout,
    TokenBucket,
)
from trioresil._clock import RunClock


def clock_from(start: float) -> trio.testing.MockClock:
    """Return a virtual clock that starts anywhere, as the real one does in each run."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    clock.jump(start)
    return clock


STARTS = [(0.0, 0.0, 0.0), (1000.0, 50.0, 7e6), (3e5, 3e5 + 2, 0.0), (0.0, 4096.0, 128.0)]
starts = pytest.mark.parametrize("starts", STARTS, ids=lambda starts: "-".join(f"{start:g}" for start in starts))


def runs(starts: tuple[float, ...], *mains: Callable[[], Awaitable[None]]) -> None:
    """Run each main in a run of its own, on a clock that starts where it is told to."""
    for start, main in zip(starts, mains, strict=True):
        trio.run(main, clock=clock_from(start))


# --- RunClock alone ------------------------------------------------------------------------------------------------------


class Owner:
    def __init__(self) -> None:
        self.shifts: list[float] = []
        self.inside = False
        self.clock = RunClock(self.shifts.append, occupied=lambda: self.inside, owner="'search'")

    def read_at(self, start: float, *sleeps: float) -> list[float]:
        async def main() -> None:
            read.append(self.clock.read())
            for each in sleeps:
                await trio.sleep(each)
                read.append(self.clock.read())

        read: list[float] = []
        trio.run(main, clock=clock_from(start))
        return read


def test_the_first_reading_shifts_from_zero_and_the_same_clock_shifts_no_more() -> None:
    owner = Owner()
    assert owner.read_at(100.0, 2, 3) == [100, 102, 105]
    assert owner.shifts == [100.0]


def test_another_clock_shifts_by_the_difference_to_the_last_reading() -> None:
    owner = Owner()
    owner.read_at(100.0, 2)
    owner.read_at(7.0, 1)
    owner.read_at(500.0)
    assert owner.shifts == [100.0, 7.0 - 102.0, 500.0 - 8.0]


def test_two_clocks_that_show_the_same_time_are_two_clocks() -> None:
    owner = Owner()
    owner.read_at(0.0, 5)
    owner.read_at(0.0)
    assert owner.shifts == [0.0, -5.0]


def test_an_owner_with_tasks_inside_refuses_another_clock_and_stays_as_it_was() -> None:
    owner = Owner()
    owner.inside = True
    owner.read_at(10.0, 1)
    with pytest.raises(RuntimeError) as caught:
        owner.read_at(50.0)
    assert str(caught.value) == (
        "'search' is in use in another trio.run: an object serves one run at a time; give each thread its own"
    )
    owner.inside = False
    owner.read_at(50.0)
    assert owner.shifts == [10.0, 50.0 - 11.0]


def test_peeking_outside_of_a_run_tells_the_last_instant_and_in_a_run_meets_its_clock() -> None:
    owner = Owner()
    assert owner.clock.peek() == 0.0

    async def main() -> None:
        assert owner.clock.peek() == 10.0
        await trio.sleep(2)
        assert owner.clock.peek() == 12.0
        assert owner.clock.read_or_last() == 12.0
        await trio.sleep(1)

    async def other() -> None:
        assert owner.clock.peek() == 100.0
        await trio.sleep(1)
        assert owner.clock.peek() == 101.0

    trio.run(main, clock=clock_from(10))
    assert owner.clock.peek() == 12.0
    trio.run(other, clock=clock_from(100))
    assert owner.shifts == [10.0, 88.0]


def test_peeking_at_what_another_run_has_tasks_in_tells_its_last_instant() -> None:
    owner = Owner()
    owner.read_at(10)
    owner.inside = True

    async def other() -> None:
        assert owner.clock.peek() == 10.0

    trio.run(other, clock=clock_from(100))
    assert owner.shifts == [10.0]


def test_a_breaker_that_is_only_looked_at_becomes_half_open_in_a_later_run_too() -> None:
    breaker = CircuitBreaker(open_for=10.0)

    async def first() -> None:
        breaker.open(10.0)

    async def second() -> None:
        assert breaker.state is CircuitState.OPEN
        await trio.sleep(9.5)
        assert breaker.state is CircuitState.OPEN
        await trio.sleep(0.5)
        assert breaker.state is CircuitState.HALF_OPEN

    runs((0.0, 4096.0), first, second)
    restored = CircuitBreaker.restore(CircuitBreaker(open_for=10.0).snapshot() | {"state": "open", "remaining": 10.0})
    runs((512.0,), polled(restored))


def polled(breaker: CircuitBreaker) -> Callable[[], Awaitable[None]]:
    async def main() -> None:
        while breaker.state is CircuitState.OPEN:  # noqa: ASYNC110  (polling is what is tested)
            await trio.sleep(1)
        assert trio.current_time() == 522.0

    return main


def test_read_or_last_reads_in_a_run_and_remembers_outside() -> None:
    owner = Owner()

    async def main() -> None:
        assert owner.clock.read_or_last() == 10.0

    assert owner.clock.read_or_last() == 0.0
    trio.run(main, clock=clock_from(10))
    assert owner.clock.read_or_last() == 10.0
    assert owner.shifts == [10.0]


def test_reading_outside_of_a_run_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"trioresil runs on Trio: start the program with trio\.run"):
        Owner().clock.read()


# --- every policy with state, over three runs -----------------------------------------------------------------------------


async def succeed() -> str:
    return "done"


async def fail() -> None:
    raise ConnectionError


@starts
def test_an_open_circuit_keeps_its_remaining_time(starts: tuple[float, ...]) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(1), open_for=10)

    async def opens() -> None:
        with pytest.raises(ConnectionError):
            await breaker.call(fail)
        await trio.sleep(4)
        with pytest.raises(CircuitOpenError) as caught:
            await breaker.call(succeed)
        assert caught.value.retry_after == 6.0

    async def stays() -> None:
        with pytest.raises(CircuitOpenError) as caught:
            await breaker.call(succeed)
        assert caught.value.retry_after == 6.0
        await trio.sleep(5)
        assert breaker.statistics().remaining == 1.0
        with pytest.raises(CircuitOpenError):
            await breaker.call(succeed)

    async def closes() -> None:
        with pytest.raises(CircuitOpenError) as caught:
            await breaker.call(succeed)
        assert caught.value.retry_after == 1.0
        await trio.sleep(1)
        assert await breaker.call(succeed) == "done"
        assert breaker.state is CircuitState.CLOSED

    runs(starts, opens, stays, closes)


@starts
def test_a_window_of_failures_keeps_its_ages(starts: tuple[float, ...]) -> None:
    breaker = CircuitBreaker(trip=FailureRatio(0.5, window=10, min_calls=3), name="windowed")

    async def one_failure() -> None:
        with pytest.raises(ConnectionError):
            await breaker.call(fail)

    async def first() -> None:
        await one_failure()
        await trio.sleep(4)
        await breaker.call(succeed)

    async def second() -> None:
        await one_failure()

    runs(starts[:2], first, second)
    assert breaker.state is CircuitState.OPEN


@starts
def test_failures_of_long_ago_are_forgotten_across_runs_too(starts: tuple[float, ...]) -> None:
    breaker = CircuitBreaker(trip=FailureRatio(0.5, window=10, min_calls=2))

    async def fails() -> None:
        with pytest.raises(ConnectionError):
            await breaker.call(fail)

    async def waits_and_fails() -> None:
        with breaker.admit() as admission:  # a use: this run's clock is known from now on
            admission.ignore()
        await trio.sleep(11)
        await fails()

    runs(starts[:2], fails, waits_and_fails)
    assert breaker.statistics().opened == 0


@starts
def test_a_bucket_keeps_its_level(starts: tuple[float, ...]) -> None:
    bucket = TokenBucket(rate=0.5, capacity=2, max_wait=3)

    async def empties() -> None:
        await bucket.acquire(2)
        await trio.sleep(1)
        bucket.acquire_nowait(0.5)

    async def is_still_empty() -> None:
        with pytest.raises(RateLimitedError) as caught:
            await bucket.acquire(2)
        assert caught.value.retry_after == 4.0
        began_at = trio.current_time()
        await bucket.acquire(1)
        assert trio.current_time() == began_at + 2.0

    async def again() -> None:
        began_at = trio.current_time()
        await bucket.acquire(1)
        assert trio.current_time() == began_at + 2.0

    runs(starts, empties, is_still_empty, again)


@starts
def test_a_pause_keeps_its_remaining_time(starts: tuple[float, ...]) -> None:
    bucket = TokenBucket(rate=1)

    async def pauses() -> None:
        bucket.pause(8)
        await trio.sleep(2)
        assert not bucket.statistics().granted
        with pytest.raises(trio.WouldBlock):
            bucket.acquire_nowait()

    async def still_paused() -> None:
        with pytest.raises(trio.WouldBlock):
            bucket.acquire_nowait()
        assert bucket.statistics().paused_for == 6.0

    async def waits() -> None:
        began_at = trio.current_time()
        await bucket.acquire()
        assert trio.current_time() == began_at + 7.0

    runs(starts, pauses, still_paused, waits)


@starts
def test_a_budget_keeps_what_was_spent(starts: tuple[float, ...]) -> None:
    budget = RetryBudget(ratio=0.5, min_per_second=0.1, window=10)

    async def spends() -> None:
        budget.deposit()
        budget.deposit()
        assert [budget.withdraw() for _ in range(3)] == [True, True, False]
        await trio.sleep(4)

    async def is_still_spent() -> None:
        assert not budget.withdraw()

    async def gets_back() -> None:
        assert not budget.withdraw()
        await trio.sleep(11)
        assert budget.withdraw()

    runs(starts, spends, is_still_spent, gets_back)


@starts
def test_a_bulkhead_keeps_its_limit_and_is_free(starts: tuple[float, ...]) -> None:
    bulkhead = Bulkhead(1, max_wait=2)

    async def main() -> None:
        async def hold() -> None:
            async with bulkhead:
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(hold)
        assert bulkhead.statistics().inside == 0

    runs(starts, main, main, main)


KEPT: dict[str, Any] = {
    "retry": Retry(on=OSError, budget=RetryBudget()),
    "timeout": Timeout(5),
    "breaker": CircuitBreaker(trip=FailureRatio(0.5, window=30)),
    "bulkhead": Bulkhead(3),
    "bucket": TokenBucket(rate=8, capacity=8),
    "keyed": Keyed(lambda key: TokenBucket(rate=8), key=lambda x: x),
    "pipeline": Pipeline(
        Timeout(9),
        Retry(on=Exception, budget=RetryBudget()),
        CircuitBreaker(trip=FailureRatio(0.5, window=30)),
        TokenBucket(rate=8),
        Bulkhead(3),
        Timeout(5),
    ),
}


def decorated(policy: Any) -> Callable[[int], Awaitable[int]]:
    @policy  # type: ignore[untyped-decorator]
    async def double(x: int) -> int:
        await trio.sleep(0.25)
        return 2 * x

    return double  # type: ignore[no-any-return]


DECORATED = {name: decorated(policy) for name, policy in KEPT.items()}


@starts
@pytest.mark.parametrize("name", DECORATED)
def test_a_function_decorated_at_module_level_works_in_every_run(name: str, starts: tuple[float, ...]) -> None:
    async def main() -> None:
        began_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(DECORATED[name], 2)
        assert await DECORATED[name](3) == 6
        assert trio.current_time() - began_at < 3

    runs(starts, main, main, main)


@pytest.mark.parametrize("name", DECORATED)
def test_a_function_decorated_at_module_level_works_on_the_system_clock(name: str) -> None:
    quick = KEPT[name]

    async def work() -> str:
        return "done"

    for _ in range(3):
        if name == "keyed":
            assert trio.run(quick["x"].call, work) == "done"
        else:
            assert trio.run(quick.call, work) == "done"


@pytest.mark.parametrize("name", KEPT)
def test_statistics_and_repr_work_before_in_between_and_after_runs(name: str) -> None:
    policy = KEPT[name]
    before = policy.statistics()
    assert type(policy.statistics()) is type(before)
    assert repr(policy).startswith("<trioresil.")

    async def main() -> None:
        assert type(policy.statistics()) is type(before)
        assert repr(policy).startswith("<trioresil.")

    trio.run(main, clock=clock_from(50))


def test_two_threads_at_once_are_refused_where_the_clock_is_read() -> None:
    bucket, breaker = (
        TokenBucket(rate=0.001, name="shared"),
        CircuitBreaker(name="shared", trip=FailureRatio(0.5, window=9)),
    )
    entered, leave = threading.Event(), threading.Event()

    async def occupy() -> None:
        async with trio.open_nursery() as nursery:
            await bucket.acquire()
            nursery.start_soon(bucket.acquire)
            with breaker.admit():
                await trio.testing.wait_all_tasks_blocked()
                entered.set()
                await trio.to_thread.run_sync(leave.wait)
            nursery.cancel_scope.cancel()

    async def intrude() -> None:
        for use in (lambda: bucket.acquire(), lambda: breaker.call(succeed)):
            with pytest.raises(RuntimeError, match=r"'shared' is in use in another trio\.run"):
                await use()

    thread = threading.Thread(target=trio.run, args=(occupy,))
    thread.start()
    try:
        assert entered.wait(10)
        trio.run(intrude)
    finally:
        leave.set()
        thread.join()
