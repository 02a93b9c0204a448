"""TokenBucket: its forms, its queue, its refusals and its changes of mind, exact on the virtual clock."""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, assert_no_checkpoints, wait_all_tasks_blocked

import trioresil
from tests._limits import notices_cancellation, schedule_points, start_in_order
from trioresil import CircuitBreaker, Pipeline, RateLimitedError, Retry, Timeout, TokenBucket
from trioresil.testing import Recorder


async def nothing() -> None:
    pass


async def acquire(bucket: TokenBucket) -> None:
    await bucket.acquire()


async def take_nowait(bucket: TokenBucket) -> None:
    bucket.acquire_nowait()


async def block(bucket: TokenBucket) -> None:
    async with bucket:
        pass


async def call(bucket: TokenBucket) -> None:
    await bucket.call(nothing)


async def decorated(bucket: TokenBucket) -> None:
    await bucket(nothing)()


async def bound(bucket: TokenBucket) -> None:
    await bucket.bind(nothing)()


async def method(bucket: TokenBucket) -> None:
    class Client:
        @bucket
        async def get(self) -> None:
            pass

    await Client().get()


async def piped(bucket: TokenBucket) -> None:
    await Pipeline(bucket).call(nothing)


async def piped_block(bucket: TokenBucket) -> None:
    async with Pipeline(bucket):
        pass


async def all_of_one(bucket: TokenBucket) -> None:
    await trioresil.acquire_all((bucket, 1))


Form = Callable[[TokenBucket], Awaitable[None]]
FULL: list[Form] = [acquire, block, piped_block, all_of_one]  # full checkpoints
CALLS: list[Form] = [call, decorated, method, piped]  # the schedule point is the function's
FORMS: list[Form] = [*FULL, *CALLS, bound, take_nowait]
WAITING: list[Form] = [*FULL, *CALLS, bound]


def emptied(rate: float = 2, capacity: float = 8, **options: Any) -> TokenBucket:
    """Return a bucket whose level is 0."""
    bucket = TokenBucket(rate=rate, capacity=capacity, **options)
    bucket.acquire_nowait(capacity)
    return bucket


class Log:
    """Who was granted tokens, and when: noted in the step of the grant, as there is no checkpoint between."""

    def __init__(self, bucket: TokenBucket) -> None:
        self.entries: list[tuple[str, float]] = []
        self.bucket = bucket

    async def note(self, name: str) -> None:
        self.entries.append((name, trio.current_time()))

    def take(self, name: str, tokens: float = 1) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            await self.bucket.acquire(tokens)
            await self.note(name)

        return run


# --- forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
async def test_every_form_takes_one_token(form: Form, autojump_clock: MockClock) -> None:
    bucket = TokenBucket(rate=1, capacity=8)
    await form(bucket)
    assert bucket.statistics().tokens == 7
    assert bucket.statistics().granted == 1
    assert trio.current_time() == 0


@pytest.mark.parametrize("form", WAITING)
async def test_every_form_waits_for_its_token(form: Form, autojump_clock: MockClock) -> None:
    bucket = emptied(rate=2)
    await form(bucket)
    assert trio.current_time() == 0.5
    assert bucket.statistics().tokens == 0
    assert bucket.statistics().waiting == 0


async def test_acquire_nowait_takes_what_is_there_and_no_more(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(rate=2, capacity=3)
    bucket.acquire_nowait(2)
    with pytest.raises(trio.WouldBlock):
        bucket.acquire_nowait(2)
    assert bucket.statistics().tokens == 1
    await trio.sleep(0.5)
    bucket.acquire_nowait(2)
    assert bucket.statistics().granted == 2


async def test_capacity_is_the_burst_and_then_the_rate_rules(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(rate=2, capacity=3)
    times = []
    for _ in range(6):
        async with bucket:
            times.append(trio.current_time())
    assert times == [0, 0, 0, 0.5, 1, 1.5]


async def test_idle_time_is_saved_up_to_the_capacity(autojump_clock: MockClock) -> None:
    bucket = emptied(rate=2, capacity=3)
    await trio.sleep(1000)
    times = []
    for _ in range(5):
        await bucket.acquire()
        times.append(trio.current_time() - 1000)
    assert times == [0, 0, 0, 0.5, 1]


async def test_fractions_of_tokens_are_taken(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(rate=0.25, capacity=0.5)
    await bucket.acquire(0.5)
    await bucket.acquire(0.125)
    assert trio.current_time() == 0.5


async def test_infinite_rate_lets_everybody_through(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(rate=math.inf)
    for _ in range(100):
        await bucket.acquire()
    assert trio.current_time() == 0


async def test_result_and_error_of_the_function_come_out_as_they_are(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(rate=1, capacity=8)
    error = ValueError("mine")

    async def fail() -> None:
        raise error

    async def add(a: int, *, b: int) -> int:
        return a + b

    assert await bucket.call(functools.partial(add, b=2), 1) == 3
    assert await bucket(add)(1, b=2) == 3
    assert await bucket.bind(add)(1, b=2) == 3
    with pytest.raises(ValueError, match="mine") as caught:
        await bucket.call(fail)
    assert caught.value is error
    with pytest.raises(ValueError, match="mine") as caught:
        async with bucket:
            raise error
    assert caught.value is error
    assert bucket.statistics().tokens == 3


# --- cost -------------------------------------------------------------------------------------------------------------


async def test_cost_is_computed_from_all_arguments(autojump_clock: MockClock) -> None:
    seen = []

    def cost(prompt: str, *, reserve: int = 0) -> float:
        seen.append((prompt, reserve))
        return len(prompt) + reserve

    async def complete(prompt: str, *, reserve: int = 0) -> str:
        return prompt

    bucket = TokenBucket(rate=1, capacity=16, cost=cost)
    assert await bucket(complete)("four", reserve=3) == "four"
    assert bucket.statistics().tokens == 9
    assert await bucket.call(complete, "four") == "four"
    assert bucket.statistics().tokens == 5
    assert await bucket.bind(complete)(prompt="four", reserve=1) == "four"
    assert bucket.statistics().tokens == 0
    assert seen == [("four", 3), ("four", 0), ("four", 1)]


async def test_cost_of_zero_passes_the_queue(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(rate=1, capacity=2, cost=lambda tokens: tokens)
    times = {}

    async def work(tokens: float) -> None:
        times[tokens] = trio.current_time()

    guarded = bucket(work)
    bucket.acquire_nowait(2)
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, functools.partial(guarded, 2))
        await guarded(0)
        await guarded(0.0)
        assert times == {0: 0}
        assert bucket.statistics().granted == 1
    assert times == {0: 0, 2: 2}


async def test_block_cannot_compute_a_cost(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(rate=1, capacity=2, cost=lambda: 1)
    with pytest.raises(ValueError, match=r"a block has no arguments .*`await bucket\.acquire\(tokens\)"):
        async with bucket:
            pytest.fail("must not get here")
    await bucket.acquire(2)
    assert bucket.statistics().tokens == 0


@pytest.mark.parametrize("tokens", [4.001, math.inf, math.nan, -1, True, False, None, "1"])
async def test_impossible_cost_passes_every_policy(tokens: Any, autojump_clock: MockClock) -> None:
    calls = []
    retry = Retry(on=Exception, max_attempts=3)
    breaker = CircuitBreaker(trip=trioresil.ConsecutiveFailures(1))
    fallback = trioresil.Fallback(on=Exception, default="default")
    bucket = TokenBucket(rate=1, capacity=4, cost=lambda: calls.append("cost") or tokens, name="search")

    async def work() -> None:
        calls.append("work")

    with pytest.raises((ValueError, TypeError), match="search: the result of cost must be a number > 0 and <= 4, not "):
        await Pipeline(fallback, retry, breaker, bucket).call(work)
    assert calls == ["cost"]
    assert breaker.state is trioresil.CircuitState.CLOSED
    assert bucket.statistics().tokens == 4


async def test_error_of_the_cost_function_takes_nothing(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(rate=1, cost=lambda: {}["missing"])
    with pytest.raises(KeyError):
        await bucket.call(nothing)
    assert bucket.statistics().tokens == 1


def test_default_cost_above_the_capacity_is_refused_before_any_call() -> None:
    bucket = TokenBucket(rate=1, capacity=0.5)
    for build in (bucket, bucket.bind):
        with pytest.raises(ValueError, match=r"tokens must be a number > 0 and <= 0\.5, not 1"):
            build(nothing)


async def test_block_above_the_capacity_is_refused(autojump_clock: MockClock) -> None:
    with pytest.raises(ValueError, match=r"tokens must be a number > 0 and <= 0\.5, not 1"):
        async with TokenBucket(rate=1, capacity=0.5):
            pytest.fail("must not get here")


# --- wrong arguments ----------------------------------------------------------------------------------------------------

WRONG_TOKENS = [(0, ValueError), (-1, ValueError), (8.5, ValueError), (math.nan, ValueError), (math.inf, ValueError)]
WRONG_TOKENS += [(True, TypeError), ("1", TypeError), (None, TypeError)]


@pytest.mark.parametrize(("tokens", "kind"), WRONG_TOKENS)
async def test_wrong_tokens_are_refused_at_once(tokens: Any, kind: type[Exception], autojump_clock: MockClock) -> None:
    bucket = emptied(name="search")
    message = "search: tokens must be a number > 0 and <= 8, not "
    with pytest.raises(kind, match=message):
        await bucket.acquire(tokens)
    with pytest.raises(kind, match=message):
        bucket.acquire_nowait(tokens)
    with pytest.raises(kind, match=message):
        await trioresil.acquire_all((bucket, tokens))
    assert trio.current_time() == 0
    assert bucket.statistics().waiting == 0


async def test_more_than_the_capacity_inside_a_call_is_not_retried(autojump_clock: MockClock) -> None:
    attempts = 0
    bucket = TokenBucket(rate=1, capacity=4)

    async def work() -> None:
        nonlocal attempts
        attempts += 1
        await bucket.acquire(5)

    with pytest.raises(ValueError, match="more than the capacity can never be granted"):
        await Retry(on=ValueError, max_attempts=3).call(work)
    assert attempts == 1


async def test_numbers_of_a_subclass_are_tokens_too(autojump_clock: MockClock) -> None:
    class Tokens(float):
        pass

    bucket = TokenBucket(rate=1, capacity=4)
    await bucket.acquire(Tokens(3))
    assert bucket.statistics().tokens == 1


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({}, TypeError, "rate"),
        ({"rate": 0}, ValueError, "rate must be"),
        ({"rate": -1}, ValueError, "rate must be"),
        ({"rate": math.nan}, ValueError, "rate must be"),
        ({"rate": True}, TypeError, "rate must be"),
        ({"rate": "1"}, TypeError, "rate must be"),
        ({"rate": 1, "capacity": 0}, ValueError, "capacity must be"),
        ({"rate": 1, "capacity": math.inf}, ValueError, "capacity must be"),
        ({"rate": 1, "capacity": True}, TypeError, "capacity must be"),
        ({"rate": 1, "max_wait": -1}, ValueError, "max_wait must be"),
        ({"rate": 1, "max_wait": math.nan}, ValueError, "max_wait must be"),
        ({"rate": 1, "max_wait": None}, TypeError, "max_wait must be"),
        ({"rate": 1, "name": ""}, ValueError, "name must be"),
        ({"rate": 1, "name": 5}, TypeError, "name must be"),
        ({"rate": 1, "cost": 5}, TypeError, "cost must be"),
        ({"rate": 1, "cost": nothing}, TypeError, "cost must be"),
    ],
)
def test_wrong_configuration_is_refused_by_name(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        TokenBucket(**options)


async def test_wrong_changes_are_refused_and_change_nothing(autojump_clock: MockClock) -> None:
    bucket = emptied(rate=2)
    for rate in (0, -1, math.nan, True, None):
        with pytest.raises((ValueError, TypeError), match="rate must be"):
            bucket.rate = rate
    for seconds in (-1, math.nan, math.inf, True, None):
        with pytest.raises((ValueError, TypeError), match="seconds must be"):
            bucket.pause(seconds)
    for tokens in (math.nan, math.inf, -math.inf, True, None):
        with pytest.raises((ValueError, TypeError), match="tokens must be"):
            bucket.adjust(tokens)
    await bucket.acquire()
    assert trio.current_time() == 0.5
    assert bucket.rate == 2
    assert bucket.capacity == 8


# --- the queue ----------------------------------------------------------------------------------------------------------


async def test_grants_are_in_order_of_arrival_whatever_the_amounts(autojump_clock: MockClock) -> None:
    bucket = emptied(rate=2, capacity=8)
    log = Log(bucket)
    async with trio.open_nursery() as nursery:
        await start_in_order(
            nursery, log.take("a", 4), log.take("b", 0.5), log.take("c", 8), log.take("d", 1), log.take("e", 2)
        )
        assert bucket.statistics().waiting == 5
        assert bucket.statistics().waiting_tokens == 15.5
    assert log.entries == [("a", 2), ("b", 2.25), ("c", 6.25), ("d", 6.75), ("e", 7.75)]
    assert bucket.statistics().waiting_tokens == 0


@pytest.mark.parametrize("form", WAITING)
async def test_every_form_keeps_its_place_in_the_queue(form: Form, autojump_clock: MockClock) -> None:
    bucket = emptied(rate=2)
    log = Log(bucket)

    async def middle() -> None:
        await form(bucket)
        await log.note("middle")

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, log.take("first", 4), middle, log.take("last"))
    assert log.entries == [("first", 2), ("middle", 2.5), ("last", 3)]


async def test_large_request_is_not_starved_by_small_ones(autojump_clock: MockClock) -> None:
    bucket = emptied(rate=8, capacity=5)
    log = Log(bucket)
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, log.take("large", 5), *[log.take("small") for _ in range(40)])
    assert log.entries[0] == ("large", 0.625)
    assert log.entries[-1] == ("small", 5.625)


@pytest.mark.parametrize("form", FORMS)
async def test_newcomer_passes_nobody_even_if_there_are_tokens_for_it(form: Form, autojump_clock: MockClock) -> None:
    bucket = emptied(rate=2, capacity=8)
    log = Log(bucket)
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, log.take("large", 8))
        await trio.sleep(3)
        assert bucket.statistics().tokens == 6
        if form is take_nowait:
            with pytest.raises(trio.WouldBlock):
                await form(bucket)
        else:
            await form(bucket)
            assert trio.current_time() == 4.5
    assert log.entries == [("large", 4)]


@pytest.mark.parametrize("form", WAITING)
async def test_who_was_served_and_comes_again_is_last(form: Form, autojump_clock: MockClock) -> None:
    bucket = emptied(rate=2)
    log = Log(bucket)

    async def twice() -> None:
        await log.take("first")()
        await form(bucket)  # in the step in which the turnstile was handed over
        await log.note("again")

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, twice, log.take("second", 2), log.take("third"))
    assert log.entries == [("first", 0.5), ("second", 1.5), ("third", 2), ("again", 2.5)]


async def test_waiter_whose_tokens_are_there_needs_one_step(autojump_clock: MockClock) -> None:
    bucket = emptied(rate=2)
    steps = []

    async def counted() -> None:
        steps.append(await schedule_points(bucket.acquire))

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, counted, counted, counted)
        bucket.rate = math.inf
    assert steps == [1, 1, 1]


@pytest.mark.parametrize("which", [0, 1, 2])
async def test_cancelled_waiter_delays_nobody(which: int, autojump_clock: MockClock) -> None:
    bucket = emptied(rate=2, capacity=8)
    log = Log(bucket)
    names = ["a", "b", "c"]
    victim = names.pop(which)
    with_victim = trio.CancelScope()

    def taker(name: str) -> Callable[[], Awaitable[None]]:
        async def cancelled() -> None:
            with with_victim:
                await log.take(name, 4)()

        return cancelled if name == victim else log.take(name, 2)

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, *[taker(name) for name in "abc"])
        await trio.sleep(0.5)
        with_victim.cancel()
        await wait_all_tasks_blocked()
        assert bucket.statistics().waiting == 2
        assert bucket.statistics().waiting_tokens == 4
    assert log.entries == [(names[0], 1), (names[1], 2)]
    assert bucket.statistics().tokens == 0


async def test_head_that_leaves_lets_the_next_one_go_at_once(autojump_clock: MockClock) -> None:
    bucket = emptied(rate=2, capacity=8)
    log = Log(bucket)
    async with trio.open_nursery() as nursery:

        async def impatient() -> None:
            with trio.move_on_after(1.5):
                await bucket.acquire(8)

        await start_in_order(nursery, impatient, log.take("b", 1), log.take("c", 2), log.take("d", 1))
    assert log.entries == [("b", 1.5), ("c", 1.5), ("d", 2)]


async def test_deadline_in_the_instant_of_the_grant_loses_no_token(autojump_clock: MockClock) -> None:
    bucket = emptied(rate=2)
    for _ in range(10):
        before = bucket.statistics()
        with trio.move_on_after(0.5) as scope:
            await bucket.acquire()
        taken = bucket.statistics().granted - before.granted
        assert taken == (0 if scope.cancelled_caught else 1)
        assert bucket.statistics().tokens == 1 - taken
        bucket.adjust(bucket.statistics().tokens)


async def test_time_out_in_the_queue_says_that_nothing_was_started(autojump_clock: MockClock) -> None:
    bucket = emptied(rate=1)
    with pytest.raises(trioresil.TimedOutError) as caught:
        await Pipeline(Timeout(0.5), bucket).call(nothing)
    assert caught.value.started is False
    with pytest.raises(trioresil.TimedOutError) as caught:
        await Pipeline(Timeout(2), bucket).call(trio.sleep, 8)
    assert caught.value.started is True


# --- max_wait -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", WAITING)
async def test_longer_wait_is_refused_at_once_with_its_exact_length(form: Form, autojump_clock: MockClock) -> None:
    bucket = emptied(rate=2, max_wait=2, name="search")
    bucket.adjust(4)
    recorder = Recorder()
    with trioresil.instrument(recorder):
        with pytest.raises(RateLimitedError, match=r"search: rate limit reached: the wait would be 2\.5 s") as caught:
            with assert_checkpoints():
                await form(bucket)
    assert trio.current_time() == 0
    assert caught.value.retry_after == 2.5
    assert caught.value.max_wait == 2
    assert caught.value.started is False
    assert [event.error for event in recorder.of(trioresil.CallRejected)] == [caught.value]
    assert bucket.statistics().rejected == 1
    assert bucket.statistics().waiting == 0
    await trio.sleep(0.5)
    await form(bucket)
    assert trio.current_time() == 2.5


async def test_wait_includes_those_ahead_and_those_who_left_count_no_more(autojump_clock: MockClock) -> None:
    bucket = emptied(rate=2, max_wait=4)
    left = trio.CancelScope()

    async def leaves() -> None:
        with left:
            await bucket.acquire(3)

    async def refused_wait(tokens: float) -> float | None:
        with pytest.raises(RateLimitedError) as caught:
            await bucket.acquire(tokens)
        return caught.value.retry_after

    async with trio.open_nursery() as nursery:
        await start_in_order(
            nursery, functools.partial(bucket.acquire, 2), leaves, functools.partial(bucket.acquire, 1)
        )
        assert await refused_wait(4) == 5
        await trio.sleep(0.5)
        assert await refused_wait(4) == 4.5
        left.cancel()
        await wait_all_tasks_blocked()
        assert await refused_wait(7) == 4.5
        await bucket.acquire(6)  # a wait of exactly max_wait
        assert trio.current_time() == 4.5


async def test_max_wait_of_zero_never_queues(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(rate=2, capacity=1, max_wait=0)
    await bucket.acquire()
    with pytest.raises(RateLimitedError) as caught:
        await bucket.acquire()
    assert caught.value.retry_after == 0.5
    await trio.sleep(0.5)
    await bucket.acquire()


async def test_max_wait_is_judged_on_joining_only(autojump_clock: MockClock) -> None:
    bucket = emptied(rate=2, max_wait=1)
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, functools.partial(bucket.acquire, 2))
        bucket.rate = 0.25
        bucket.pause(4)
    assert trio.current_time() == 12
    assert bucket.statistics().rejected == 0


async def test_pause_counts_as_a_wait(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(rate=2, capacity=4, max_wait=3)
    bucket.pause(5)
    with pytest.raises(RateLimitedError) as caught:
        await bucket.acquire(2)
    assert caught.value.retry_after == 6


async def test_refusal_is_the_hint_that_a_retry_waits_for(autojump_clock: MockClock) -> None:
    bucket = emptied(rate=2, max_wait=1)
    bucket.adjust(7)
    retry = Retry(on=RateLimitedError, backoff=trioresil.constant(0.25), max_attempts=2)
    await Pipeline(retry, bucket).call(nothing)
    assert trio.current_time() == 4


# --- changes while tasks wait -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "ends"), [(4, [2, 2.5, 3]), (1, [5, 7, 9]), (math.inf, [1, 1, 1]), (2, [3, 4, 5]), (0.25, [17, 25, 33])]
)
async def test_changed_rate_keeps_the_level_and_moves_the_queue_at_once(
    rate: float, ends: list[float], autojump_clock: MockClock
) -> None:
    bucket = TokenBucket(rate=2, capacity=6)
    bucket.acquire_nowait(6)
    bucket.adjust(4)
    log = Log(bucket)
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, log.take("a", 2), log.take("b", 2), log.take("c", 2))
        await trio.sleep(1)
        level = bucket.statistics().tokens
        bucket.rate = rate
        assert level == -2
        assert bucket.statistics().tokens == (6 if rate == math.inf else level)
        assert bucket.rate == rate
    assert log.entries == [("a", ends[0]), ("b", ends[1]), ("c", ends[2])]


async def test_pause_holds_the_queue_and_keeps_its_order(autojump_clock: MockClock) -> None:
    bucket = emptied(rate=2)
    log = Log(bucket)
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, log.take("a"), log.take("b", 2), log.take("c"))
        await trio.sleep(0.25)
        bucket.pause(4)
        assert bucket.statistics().paused_for == 4
        bucket.pause(1)
        assert bucket.statistics().paused_for == 4
    assert log.entries == [("a", 4.75), ("b", 5.75), ("c", 6.25)]
    assert bucket.statistics().paused_for == 0


async def test_pause_empties_a_full_bucket(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(rate=2, capacity=8)
    bucket.pause(3)
    with pytest.raises(trio.WouldBlock):
        bucket.acquire_nowait()
    await bucket.acquire(4)
    assert trio.current_time() == 5


async def test_charge_delays_the_queue_and_a_credit_lets_it_go_at_once(autojump_clock: MockClock) -> None:
    bucket = emptied(rate=2)
    log = Log(bucket)
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, log.take("a"), log.take("b", 2), log.take("c"))
        bucket.adjust(3)
        assert bucket.statistics().tokens == -3
        await trio.sleep(1)
        bucket.adjust(-4)
        await wait_all_tasks_blocked()
        assert log.entries == [("a", 1), ("b", 1)]
    assert log.entries[2:] == [("c", 1.5)]


async def test_credit_never_fills_above_the_capacity(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(rate=2, capacity=8)
    bucket.acquire_nowait(2)
    bucket.adjust(-100)
    assert bucket.statistics().tokens == 8
    bucket.acquire_nowait(8)
    with pytest.raises(trio.WouldBlock):
        bucket.acquire_nowait(0.001)


async def test_change_in_the_step_of_the_wake_up_is_minded(autojump_clock: MockClock) -> None:
    bucket = emptied(rate=2)
    log = Log(bucket)
    paused = False

    async def pauser() -> None:
        nonlocal paused
        await trio.sleep(0.5)
        if not log.entries:
            bucket.pause(4)
            paused = True

    for _ in range(20):  # Trio shuffles who of the two runs first
        start = trio.current_time()
        log.entries.clear()
        paused = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.take("a"))
            nursery.start_soon(pauser)
        assert log.entries == [("a", start + (5 if paused else 0.5))]


async def test_statistics_tell_everything(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(rate=2, capacity=8, name="search", max_wait=9)
    await bucket.acquire(7)
    assert bucket.statistics() == trioresil.TokenBucketStatistics(
        name="search",
        tokens=1,
        capacity=8,
        rate=2,
        waiting=0,
        waiting_tokens=0,
        paused_for=0,
        granted=1,
        rejected=0,
    )
    assert repr(bucket) == "<trioresil.TokenBucket 'search' 1/8 tokens, 0 waiting>"
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, functools.partial(bucket.acquire, 4), functools.partial(bucket.acquire, 3))
        assert repr(bucket) == "<trioresil.TokenBucket 'search' 1/8 tokens, 2 waiting>"
        assert bucket.statistics().waiting_tokens == 7
        bucket.pause(1.25)
        assert repr(bucket) == "<trioresil.TokenBucket 'search' 0/8 tokens, 2 waiting, paused for 1.25 s>"
    with pytest.raises(AttributeError):
        bucket.statistics().tokens = 5  # type: ignore[misc]


# --- checkpoints ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FULL)
async def test_acquire_and_block_are_full_checkpoints(form: Form, autojump_clock: MockClock) -> None:
    bucket = TokenBucket(rate=2, capacity=2)
    for waits in (False, False, True):  # with a token there, and without
        with assert_checkpoints():
            await form(bucket)
        assert trio.current_time() == (0.5 if waits else 0)
    assert await notices_cancellation(functools.partial(form, bucket))
    await trio.sleep(10)
    assert await notices_cancellation(functools.partial(form, bucket))
    assert bucket.statistics().tokens == 2


@pytest.mark.parametrize("form", FULL)
async def test_uncontended_acquire_lets_others_run_once(form: Form, autojump_clock: MockClock) -> None:
    bucket = TokenBucket(rate=2, capacity=2)
    assert await schedule_points(functools.partial(form, bucket)) == 1


@pytest.mark.parametrize("form", CALLS)
async def test_calls_check_for_cancellation_and_leave_the_schedule_point_to_the_function(
    form: Form, autojump_clock: MockClock
) -> None:
    bucket = TokenBucket(rate=2, capacity=2)
    assert await schedule_points(functools.partial(form, bucket)) == 0
    assert await notices_cancellation(functools.partial(form, bucket))
    assert bucket.statistics().tokens == 1


@pytest.mark.parametrize("form", WAITING)
async def test_waiting_is_a_full_checkpoint_in_every_form(form: Form, autojump_clock: MockClock) -> None:
    bucket = emptied(rate=2)
    with assert_checkpoints():
        await form(bucket)
    assert await notices_cancellation(functools.partial(form, bucket))
    assert bucket.statistics().waiting == 0


async def test_bound_function_and_acquire_nowait_are_no_checkpoints(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(rate=2, capacity=4)
    with assert_no_checkpoints():
        await bound(bucket)
        bucket.acquire_nowait()
        bucket.adjust(1)
        bucket.pause(0)
    assert not await notices_cancellation(functools.partial(bound, TokenBucket(rate=1)))


async def test_loop_over_refusals_lets_other_tasks_run(autojump_clock: MockClock) -> None:
    bucket = emptied(rate=2, max_wait=0)
    refusals = 0
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def other() -> None:
                for _ in range(3):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

            nursery.start_soon(other)
            while refusals < 1000:
                with pytest.raises(RateLimitedError):
                    await bucket.acquire()
                refusals += 1
    assert refusals < 10


# --- instruments ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
async def test_first_use_is_announced_once_and_a_grant_is_silent(form: Form, autojump_clock: MockClock) -> None:
    bucket = TokenBucket(rate=2, capacity=8)
    recorder = Recorder()
    with trioresil.instrument(recorder):
        await form(bucket)
        await form(bucket)
    seen = [event for event in recorder.events if event.policy is bucket]
    assert seen == [trioresil.PolicySeen(policy=bucket)]
