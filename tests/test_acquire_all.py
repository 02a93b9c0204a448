"""acquire_all: several buckets, all or nothing, in one queue order."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, assert_checkpoints

import trioresil
from tests._limits import LateClock, most_above_the_line, notices_cancellation, schedule_points, start_in_order
from trioresil import RateLimitedError, Retry, TokenBucket, acquire_all
from trioresil.testing import Recorder, Sweep, cancellation_sweep


def emptied(rate: float, capacity: float = 8, **options: Any) -> TokenBucket:
    bucket = TokenBucket(rate=rate, capacity=capacity, **options)
    bucket.acquire_nowait(capacity)
    return bucket


def level(bucket: TokenBucket) -> float:
    return bucket.statistics().tokens


async def test_takes_from_all_at_once(autojump_clock: MockClock) -> None:
    one, two = TokenBucket(rate=1, capacity=4), TokenBucket(rate=1, capacity=100)
    await acquire_all((one, 1), (two, 50))
    assert (level(one), level(two)) == (3, 50)
    assert (one.statistics().granted, two.statistics().granted) == (1, 1)
    assert trio.current_time() == 0


async def test_waits_for_the_slowest_and_takes_nothing_before(autojump_clock: MockClock) -> None:
    fast, slow = emptied(rate=8), emptied(rate=1)
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, functools.partial(acquire_all, (slow, 2), (fast, 3)))
        await trio.sleep(1)
        assert (level(fast), level(slow)) == (8, 1)
        assert (fast.statistics().waiting, slow.statistics().waiting) == (1, 1)
        assert (fast.statistics().waiting_tokens, slow.statistics().waiting_tokens) == (3, 2)
    assert trio.current_time() == 2
    assert level(slow) == 0
    assert 5 <= level(fast) <= 5 + 8 * 0.01  # full for long while somebody queued: it may hold the credit
    assert (fast.statistics().waiting, slow.statistics().waiting) == (0, 0)


@pytest.mark.parametrize("swap", [False, True])
async def test_opposite_orders_of_arguments_never_deadlock(swap: bool, autojump_clock: MockClock) -> None:
    one, two = emptied(rate=2), emptied(rate=2)
    times: list[float] = []

    async def take(first: TokenBucket, second: TokenBucket) -> None:
        await acquire_all((first, 1), (second, 1))
        times.append(trio.current_time())

    pair = (two, one) if swap else (one, two)
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            for turn in range(20):
                nursery.start_soon(take, *(pair if turn % 2 else reversed(pair)))
    assert times == [(turn + 1) / 2 for turn in range(20)]


async def test_calls_of_acquire_all_are_served_in_order(autojump_clock: MockClock) -> None:
    one, two, three = emptied(rate=2), emptied(rate=2), emptied(rate=2)
    entries: list[tuple[str, float]] = []

    def take(name: str, *demands: tuple[TokenBucket, float]) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            await acquire_all(*demands)
            entries.append((name, trio.current_time()))

        return run

    async with trio.open_nursery() as nursery:
        await start_in_order(
            nursery,
            take("a", (two, 4), (one, 1)),
            take("b", (one, 1), (two, 1), (three, 1)),
            take("c", (three, 1), (one, 2)),
        )
    assert entries == [("a", 2), ("b", 2.5), ("c", 2.5)]


async def test_single_acquire_of_a_later_bucket_may_go_before_one_that_waits_for_an_earlier_one(
    autojump_clock: MockClock,
) -> None:
    earlier, later = emptied(rate=2), TokenBucket(rate=2, capacity=8)
    async with trio.open_nursery() as nursery:
        holder = functools.partial(earlier.acquire, 1)
        await start_in_order(nursery, holder, functools.partial(acquire_all, (later, 8), (earlier, 1)))
        with pytest.raises(trio.WouldBlock):
            later.acquire_nowait()
        with assert_checkpoints():
            await later.acquire(2)
        assert trio.current_time() == 0
    assert trio.current_time() == 1
    assert 0 <= level(later) <= 2 * 0.01  # full while somebody queued: it may hold the credit


async def test_head_of_all_queues_minds_every_bucket(autojump_clock: MockClock) -> None:
    one, two = emptied(rate=2), emptied(rate=2)
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, functools.partial(acquire_all, (one, 2), (two, 4)))
        await trio.sleep(0.5)
        one.pause(4)
        two.rate = 1
    assert trio.current_time() == 5.5
    assert (level(one), level(two)) == (0, 2)
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, functools.partial(acquire_all, (two, 4), (one, 1)))
        one.rate = 0.5
        two.adjust(-2)
        assert trio.current_time() == 5.5
    assert trio.current_time() == 7.5


async def test_sleep_at_all_heads_ends_once_when_the_slowest_bucket_is_ready(autojump_clock: MockClock) -> None:
    one, two = emptied(rate=2), emptied(rate=2)
    steps = []

    async def counted() -> None:
        steps.append(await schedule_points(functools.partial(acquire_all, (one, 1), (two, 8))))

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, counted)
        await trio.sleep(1)
        two.rate = 4  # 6 tokens are missing
        await trio.sleep(0.5)
        two.rate = 8  # 4 tokens are missing
    assert trio.current_time() == 2
    assert steps == [1]


async def test_one_slow_bucket_lets_the_next_of_the_others_go_when_it_is_served(autojump_clock: MockClock) -> None:
    one, two = emptied(rate=2), emptied(rate=1)
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, functools.partial(acquire_all, (one, 1), (two, 4)))
        await one.acquire(7)
        assert trio.current_time() == 4
        await two.acquire(1)
        assert trio.current_time() == 5


async def test_charge_leaves_the_queue_the_credit_for_its_lateness(autojump_clock: MockClock) -> None:
    one, two = emptied(rate=2), TokenBucket(rate=2, capacity=8)
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, functools.partial(acquire_all, (one, 8), (two, 1)))
        await trio.sleep(2)
        two.adjust(3)
        assert level(two) == pytest.approx(8 + 2 * 0.01 - 3, abs=1e-9)
    assert trio.current_time() == 4


# --- refusals ---------------------------------------------------------------------------------------------------------


async def test_same_bucket_twice_is_refused(autojump_clock: MockClock) -> None:
    one, two = TokenBucket(rate=1, capacity=8), TokenBucket(rate=1, capacity=8)
    with pytest.raises(ValueError, match="the same bucket twice: add its tokens up"):
        await acquire_all((one, 1), (two, 1), (one, 2))
    assert (level(one), level(two)) == (8, 8)


async def test_nothing_to_acquire_is_refused(autojump_clock: MockClock) -> None:
    with pytest.raises(ValueError, match="at least one"):
        await acquire_all()


@pytest.mark.parametrize("wrong", [5, (5, 1), (TokenBucket(rate=1),), (TokenBucket(rate=1), 1, 2), TokenBucket(rate=1)])
async def test_what_is_no_pair_is_refused(wrong: Any, autojump_clock: MockClock) -> None:
    with pytest.raises(TypeError, match="takes pairs of a TokenBucket and a number of tokens, not "):
        await acquire_all((TokenBucket(rate=1), 1), wrong)


async def test_more_than_one_capacity_charges_none(autojump_clock: MockClock) -> None:
    one, two = TokenBucket(rate=1, capacity=8), TokenBucket(rate=1, capacity=4, name="small")
    with pytest.raises(ValueError, match="small: tokens must be a number > 0 and <= 4, not 5"):
        await acquire_all((one, 1), (two, 5))
    assert (level(one), level(two)) == (8, 4)


@pytest.mark.parametrize("swap", [False, True])
async def test_refusal_by_one_charges_none_and_names_the_longest_wait(swap: bool, autojump_clock: MockClock) -> None:
    quick, slow = emptied(rate=2, max_wait=1, name="quick"), emptied(rate=1, name="slow")
    demands = [(quick, 3), (slow, 4)]
    recorder = Recorder()
    with trioresil.instrument(recorder):
        with pytest.raises(RateLimitedError, match=r"quick: .* longer than max_wait=1") as caught:
            with assert_checkpoints():
                await acquire_all(*(reversed(demands) if swap else demands))
    assert caught.value.retry_after == 4
    assert caught.value.started is False
    assert [event.policy for event in recorder.of(trioresil.CallRejected)] == [quick]
    assert (quick.statistics().rejected, slow.statistics().rejected) == (1, 0)
    assert (quick.statistics().waiting, slow.statistics().waiting) == (0, 0)
    assert (level(quick), level(slow)) == (0, 0)
    await acquire_all((slow, 1), (quick, 2))
    assert trio.current_time() == 1


async def test_cancelled_wait_charges_none_and_blocks_nobody(autojump_clock: MockClock) -> None:
    one, two = emptied(rate=2), TokenBucket(rate=2, capacity=8)
    with trio.move_on_after(1) as scope:
        await acquire_all((two, 8), (one, 4))
    assert scope.cancelled_caught
    assert (level(one), level(two)) == (2, 8)
    one.acquire_nowait(2)
    two.acquire_nowait(8)


async def test_is_a_full_checkpoint_and_announces_each_bucket_once(autojump_clock: MockClock) -> None:
    one, two = TokenBucket(rate=1, capacity=2), TokenBucket(rate=1, capacity=2)
    take = functools.partial(acquire_all, (two, 1), (one, 1))
    recorder = Recorder()
    with trioresil.instrument(recorder):
        assert await schedule_points(take) == 1
        with assert_checkpoints():
            await take()
        with assert_checkpoints():
            await take()
    assert trio.current_time() == 1
    assert [event.policy for event in recorder.of(trioresil.PolicySeen)] == [one, two]
    await trio.sleep(10)
    assert await notices_cancellation(take)
    assert (level(one), level(two)) == (2, 2)


# --- the paid interface that says 429 ------------------------------------------------------------------------------------


class TooManyRequestsError(Exception):
    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after


async def test_fifty_tasks_told_to_retry_after_five_seconds_all_succeed_at_the_rate(autojump_clock: MockClock) -> None:
    requests, tokens = TokenBucket(rate=8, capacity=50), TokenBucket(rate=1024, capacity=50_000)
    served: list[float] = []
    told = 0

    async def ask(prompt: str) -> None:
        nonlocal told
        await acquire_all((requests, 1), (tokens, len(prompt)))
        if trio.current_time() < 5:
            told += 1
            await trio.sleep(0.5)  # all get their answer in the same instant
            requests.pause(5)
            raise TooManyRequestsError(retry_after=5)
        served.append(trio.current_time())

    retry = Retry(on=TooManyRequestsError, backoff=trioresil.constant(0), max_attempts=2)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(retry.call, ask, "x" * 16)
    assert told == 50
    assert served == [5.5 + (number + 1) / 8 for number in range(50)]


async def test_fifty_tasks_that_also_wait_for_the_hint_all_succeed_at_the_rate(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(rate=8, capacity=50)
    served: list[float] = []

    async def ask() -> None:
        if trio.current_time() < 5:
            bucket.pause(5)
            raise TooManyRequestsError(retry_after=5)
        served.append(trio.current_time())

    def hint(outcome: Any) -> Any:
        return outcome.retry_after if isinstance(outcome, TooManyRequestsError) else None

    retry = Retry(on=TooManyRequestsError, delay_hint=hint, backoff=trioresil.constant(0))
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(trioresil.Pipeline(retry, bucket).call, ask)
    assert served == [5 + (number + 1) / 8 for number in range(50)]


# --- windows ----------------------------------------------------------------------------------------------------------------

demands = st.tuples(
    st.floats(0, 2),  # comes at
    st.one_of(st.just(1e6), st.floats(0, 1)),  # patience
    st.permutations([0, 1, 2]),  # buckets
    st.integers(1, 3),  # how many of them
    st.sampled_from([0.5, 1, 2, 3]),  # tokens of each
    st.sampled_from([0.0] * 8 + [2.0]),  # stall
)


@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(customers=st.lists(demands, min_size=5, max_size=40), lateness=st.sampled_from([0.0, 0.001, 0.02]))
def test_no_bucket_is_exceeded_in_any_window_and_nobody_is_left_waiting(
    customers: list[tuple[float, float, list[int], int, float, float]], lateness: float
) -> None:
    clock = LateClock(lambda: lateness)
    rates = (3.0, 10.0, 100.0)
    buckets = [TokenBucket(rate=rate, capacity=3) for rate in rates]
    grants: list[list[tuple[float, float]]] = [[], [], []]
    ended = 0

    class Noting(type(buckets[0]._level)):  # type: ignore[misc]
        """A level that notes what is taken in the step in which it is taken."""

        __slots__ = ("log",)

        def take(self, tokens: float, now: float, queued: bool) -> None:
            self.log.append((now, tokens))
            super().take(tokens, now, queued)

    for bucket, log in zip(buckets, grants, strict=True):
        bucket._level = Noting(bucket.rate, bucket.capacity)
        bucket._level.log = log

    async def customer(
        comes: float, patience: float, order: list[int], number: int, tokens: float, stall: float
    ) -> None:
        nonlocal ended
        await trio.sleep(comes)
        with trio.move_on_after(patience):
            if number == 1:
                await buckets[order[0]].acquire(tokens)
            else:
                await acquire_all(*[(buckets[index], tokens) for index in order[:number]])
            clock.now += stall
        ended += 1

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for each in customers:
                nursery.start_soon(customer, *each)

    trio.run(main, clock=clock)
    assert ended == len(customers)
    for bucket, log, rate in zip(buckets, grants, rates, strict=True):
        assert most_above_the_line(log, rate) <= 3 + rate * (0.01 + 1e-9)
        assert bucket.statistics().waiting == 0
        assert bucket.statistics().waiting_tokens == 0


# --- cancellation at every moment -------------------------------------------------------------------------------------------


async def crossing(sweep: Sweep) -> None:
    one, two, three = emptied(rate=2), emptied(rate=4), TokenBucket(rate=2, capacity=8)
    capacity_in_debt = level(one) + level(two) + level(three)
    assert capacity_in_debt == 8
    taken = {one: 0.0, two: 0.0, three: 0.0}

    def check() -> None:
        for bucket in taken:
            statistics = bucket.statistics()
            if statistics.waiting == 0:
                assert not bucket._turnstile.borrowed_tokens
                assert bucket._head is None
            if (
                bucket._turnstile.borrowed_tokens and bucket._head is None
            ):  # its holder is parked at a later bucket, whose head sleeps
                assert any(other._head is not None for other in taken)
        if any(bucket.statistics().waiting for bucket in taken):
            heads = [bucket._head for bucket in taken if bucket._head is not None]
            assert heads
            assert all(head._scope.deadline > trio.current_time() for head in heads)

    sweep.when_quiet(check)

    async def take(*demands: tuple[TokenBucket, float]) -> None:
        await acquire_all(*demands)
        for bucket, tokens in demands:
            taken[bucket] += tokens

    async def single(bucket: TokenBucket, tokens: float) -> None:
        await bucket.acquire(tokens)
        taken[bucket] += tokens

    async def victim() -> None:
        with sweep.victim():
            await take((three, 2), (one, 1), (two, 2))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, (one, 2), (two, 3))
        nursery.start_soon(take, (two, 1), (one, 1))
        nursery.start_soon(victim)
        nursery.start_soon(single, two, 2)
        nursery.start_soon(single, three, 4)
        nursery.start_soon(take, (three, 1), (two, 1))
    check()
    came = taken[three] == 7
    assert came is not sweep.victim_cancelled
    assert (taken[one], taken[two], taken[three]) == ((4, 9, 7) if came else (3, 7, 5))
    # What is missing from each level is what was taken, at the rate: nobody was charged and not let in.
    now = trio.current_time()
    assert level(one) == min(8, 2 * now - taken[one])
    assert level(two) == min(8, 4 * now - taken[two])
    assert all(bucket.statistics().waiting == 0 for bucket in taken)
    assert three.statistics().granted == 2 + came


def test_cancelled_acquire_all_leaves_no_trace() -> None:
    report = cancellation_sweep(crossing, seeds=range(6))
    assert report.cancelled > 0


async def refused_or_not(sweep: Sweep) -> None:
    one, two = emptied(rate=2), emptied(rate=2, max_wait=1)
    outcomes: dict[str, bool] = {}

    async def customer(name: str, *demands: tuple[TokenBucket, float]) -> None:
        try:
            await acquire_all(*demands)
        except RateLimitedError:
            outcomes[name] = False
        else:
            outcomes[name] = True

    async def victim() -> None:
        with sweep.victim():
            await customer("victim", (one, 1), (two, 2))

    async with trio.open_nursery() as nursery:  # who of the two comes second is refused
        nursery.start_soon(victim)
        nursery.start_soon(customer, "other", (two, 1))
    assert (one.statistics().waiting, two.statistics().waiting) == (0, 0)
    assert ("victim" in outcomes) is not sweep.victim_cancelled
    assert one.statistics().granted == 1 + outcomes.get("victim", False)
    assert two.statistics().granted == 1 + outcomes.get("victim", False) + outcomes["other"]
    assert level(two) == 2 * trio.current_time() - 2 * outcomes.get("victim", False) - outcomes["other"]


def test_cancelled_or_refused_acquire_all_charges_no_bucket() -> None:
    cancellation_sweep(refused_or_not, seeds=range(6))
