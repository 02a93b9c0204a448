"""CircuitBreaker on the virtual clock: when it opens, who may probe, when it closes, and at which instant exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from tests._circuit_breaker import (
    CLOSED,
    HALF_OPEN,
    OPEN,
    fail,
    fail_times,
    half_open,
    one_failure,
    open_circuit,
    rejection,
    succeed,
)
from tests._ids import shown
from trioresil import (
    CircuitBreaker,
    CircuitOpenError,
    ConsecutiveFailures,
    FailureRatio,
    FailuresOf,
    SlowRatio,
    abc,
    constant,
    exponential,
    linear,
)

# --- when it opens --------------------------------------------------------------------------------------------------


async def play(breaker: CircuitBreaker, calls: str) -> str:
    """Make one call for each letter, a second apart: x fails, s succeeds after 3 s, any other succeeds at once.

    Returns the calls up to the one that opened the circuit.
    """
    for number, letter in enumerate(calls, 1):
        if letter == "x":
            await fail_times(breaker)
        else:
            await breaker.call(lambda slow=letter == "s": succeed(after=3.0 if slow else 0.0))
        if breaker.state is OPEN:
            return calls[:number]
        await trio.sleep(1)
    return calls


@pytest.mark.parametrize(
    ("trip", "calls", "until_open"),
    [
        (None, "xxxx.xxxxx.", "xxxx.xxxxx"),
        (ConsecutiveFailures(2), "x.x.xx.", "x.x.xx"),
        (FailuresOf(2, of=3), "x..x.x.", "x..x.x"),
        (FailureRatio(0.5, window=60, min_calls=4), "...xx.xx.", "...xx.xx"),
        (FailureRatio(0.5, window=60, min_calls=4), "xx...", "xx.."),
        (FailureRatio(0.75, window=10, min_calls=2), "....xxxxxxxxxxx", "....xxxxxxxx"),
        (SlowRatio(0.5, slower_than=2, window=60, min_calls=3), "..xsss..", "..xsss"),
        (ConsecutiveFailures(3) | SlowRatio(1.0, slower_than=2, min_calls=2), "xx.xxx.", "xx.xxx"),
        (ConsecutiveFailures(3) | SlowRatio(1.0, slower_than=2, min_calls=2), "ss.", "ss"),
    ],
    ids=str,
)
async def test_each_rule_opens_the_circuit_at_the_call_it_says(
    trip: abc.TripRule | None, calls: str, until_open: str, autojump_clock: trio.testing.MockClock
) -> None:
    breaker = CircuitBreaker() if trip is None else CircuitBreaker(trip=trip)
    assert await play(breaker, calls) == until_open
    assert breaker.state is OPEN


@pytest.mark.parametrize("form", ["call", "block", "admit"])
async def test_a_call_lasts_as_long_as_it_was_inside(form: str, autojump_clock: trio.testing.MockClock) -> None:
    breaker = CircuitBreaker(trip=SlowRatio(0.5, slower_than=2.0, min_calls=2))

    async def stay(seconds: float) -> None:
        if form == "call":
            await breaker.call(trio.sleep, seconds)
        elif form == "block":
            async with breaker:
                await trio.sleep(seconds)
        else:
            with breaker.admit():
                await trio.sleep(seconds)

    await stay(2.0)
    assert breaker.state is CLOSED
    await stay(2.125)
    assert breaker.state is OPEN


@pytest.mark.parametrize("form", ["call", "block", "admit"])
async def test_a_failure_may_be_slow_as_well(form: str, autojump_clock: trio.testing.MockClock) -> None:
    breaker = CircuitBreaker(trip=SlowRatio(1.0, slower_than=2.0, min_calls=1))
    for seconds, state in ((2.0, CLOSED), (2.125, OPEN)):
        breaker.reset()
        with pytest.raises(OSError, match="down"):
            if form == "call":
                await breaker.call(lambda seconds=seconds: fail(after=seconds))
            elif form == "block":
                async with breaker:
                    await fail(after=seconds)
            else:
                with breaker.admit():
                    await fail(after=seconds)
        assert breaker.state is state


async def test_calls_that_were_inside_together_each_count(autojump_clock: trio.testing.MockClock) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(3))

    async def fail_after(seconds: float) -> None:
        with pytest.raises(OSError, match="down"):
            await breaker.call(lambda: fail(after=seconds))

    async with trio.open_nursery() as nursery:
        for seconds in (1, 2, 3):
            nursery.start_soon(fail_after, seconds)
        await trio.sleep(2.5)
        assert (breaker.state, breaker.statistics().inside) == (CLOSED, 1)
    assert (breaker.state, breaker.statistics().inside) == (OPEN, 0)


# --- the instants ---------------------------------------------------------------------------------------------------


async def test_open_half_open_and_closed_come_at_their_exact_instants(autojump_clock: trio.testing.MockClock) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(2), open_for=30.0)
    await trio.sleep(1)
    await fail_times(breaker)
    assert breaker.state is CLOSED
    with pytest.raises(OSError, match="down"):
        await breaker.call(lambda: fail(after=2))
    assert (breaker.state, breaker.statistics().remaining) == (OPEN, 30.0)
    await trio.sleep(29.75)
    assert (breaker.state, (await rejection(breaker)).retry_after) == (OPEN, 0.25)
    await trio.sleep(0.25)
    assert (trio.current_time(), breaker.state, breaker.statistics().remaining) == (33.0, HALF_OPEN, 0.0)
    await breaker.call(succeed, None)
    assert (trio.current_time(), breaker.state) == (33.0, CLOSED)


async def test_a_failed_probe_opens_for_the_whole_time_again_from_its_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    breaker = await half_open(one_failure())
    with pytest.raises(OSError, match="down"):
        await breaker.call(lambda: fail(after=2))
    assert (breaker.state, (await rejection(breaker)).retry_after) == (OPEN, 8.0)
    await trio.sleep(8)
    assert breaker.state is HALF_OPEN


@pytest.mark.parametrize("open_for", [0.1, 1 / 3, 7.7, 1e-9, 12345.678901234567, 1e6 + 0.1])
@pytest.mark.parametrize("begin", [0.0, 0.1, 1234.1, 86400.3, 2.0**40 / 3])
async def test_sleeping_exactly_the_retry_after_is_enough(
    open_for: float, begin: float, autojump_clock: trio.testing.MockClock
) -> None:
    await trio.sleep(begin)
    breaker = await open_circuit(one_failure(open_for=open_for))
    for part in (0.0, 0.1, 1 / 3):
        await trio.sleep(open_for * part)
        if breaker.state is HALF_OPEN:  # so short a time isn't left on so large a clock
            break
        error = await rejection(breaker)
        assert error.retry_after is not None
        assert error.retry_after == pytest.approx(breaker._circuit.open_until - trio.current_time(), rel=1e-12)
    else:
        await trio.sleep(error.retry_after)
    assert await breaker.call(succeed, 1) == 1
    assert breaker.state is CLOSED


async def test_open_without_end_rejects_until_it_is_reset(autojump_clock: trio.testing.MockClock) -> None:
    breaker = await open_circuit(one_failure(open_for=math.inf))
    await trio.sleep(80_000)
    error = await rejection(breaker)
    assert error.retry_after == math.inf
    assert str(error) == "search: the circuit is open, next probe in inf s"
    assert breaker.statistics().remaining == math.inf
    breaker.reset()
    await breaker.call(succeed)


# --- probes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["call", "block", "admit"])
@pytest.mark.parametrize("probes", [1, 3])
async def test_exactly_the_probes_pass_of_a_thousand_that_arrive_together(
    probes: int, form: str, autojump_clock: trio.testing.MockClock
) -> None:
    breaker = await half_open(one_failure(probes=probes, successes_to_close=probes))
    passed: list[float] = []
    rejected: list[float | None] = []

    async def use() -> None:
        passed.append(trio.current_time())
        assert breaker.statistics().probes_out == len(passed)
        await trio.sleep(1)

    async def arrive() -> None:
        try:
            if form == "call":
                await breaker.call(use)
            elif form == "block":
                async with breaker:
                    await use()
            else:
                with breaker.admit():
                    passed.append(trio.current_time())
                    await trio.sleep(1)
        except CircuitOpenError as exc:
            rejected.append(exc.retry_after)

    async with trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(arrive)
    assert passed == [8.0] * probes
    assert rejected == [None] * (1000 - probes)
    assert breaker.statistics().rejected == 1000 - probes
    assert (breaker.state, trio.current_time()) == (CLOSED, 9.0)


async def test_as_many_successes_as_wanted_close_it_and_a_failure_between_begins_anew(
    autojump_clock: trio.testing.MockClock,
) -> None:
    breaker = await half_open(one_failure(successes_to_close=3))
    for _ in range(2):
        await breaker.call(succeed)
        assert breaker.state is HALF_OPEN
    await fail_times(breaker)
    await breaker.wait_admittable()
    for _ in range(2):
        await breaker.call(succeed)
        assert breaker.state is HALF_OPEN
    await breaker.call(succeed)
    assert breaker.state is CLOSED


async def test_once_closed_all_pass_and_the_old_failures_are_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    breaker = await half_open(CircuitBreaker(trip=ConsecutiveFailures(3)))
    await breaker.call(succeed)
    await fail_times(breaker, 2)
    assert breaker.state is CLOSED
    assert breaker.statistics().trip == "2/3 consecutive failures"


async def test_the_slot_of_a_hung_probe_is_given_away_after_its_lease_and_its_verdict_is_stale(
    autojump_clock: trio.testing.MockClock,
) -> None:
    breaker = await half_open(one_failure(probe_lease=4.0, successes_to_close=2))
    outcome: list[Any] = []

    async def hang() -> None:
        outcome.append(await breaker.call(lambda: succeed("late", after=100)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hang)
        await trio.sleep(3.75)
        assert (await rejection(breaker)).retry_after is None
        await breaker.wait_admittable()
        assert trio.current_time() == 12.0
        assert breaker.statistics().probes_out == 0
        await breaker.call(succeed)
        assert breaker.state is HALF_OPEN
    assert outcome == ["late"]  # it was let run
    assert breaker.state is HALF_OPEN  # and said nothing
    await breaker.call(succeed)
    assert breaker.state is CLOSED


async def test_a_late_failure_of_a_probe_says_nothing_either(autojump_clock: trio.testing.MockClock) -> None:
    breaker = await half_open(one_failure(probe_lease=4.0))
    with pytest.raises(OSError, match="down"):
        await breaker.call(lambda: fail(after=4.0))
    assert breaker.state is HALF_OPEN
    with pytest.raises(OSError, match="down"):
        await breaker.call(lambda: fail(after=3.75))
    assert breaker.state is OPEN


# --- open times that grow -------------------------------------------------------------------------------------------


async def open_times(breaker: CircuitBreaker, reopenings: int) -> list[float]:
    """Let every probe fail; return how long the circuit was open each time."""
    await open_circuit(breaker)
    times = []
    for _ in range(reopenings + 1):
        opened_at = trio.current_time()
        await breaker.wait_admittable()
        times.append(trio.current_time() - opened_at)
        await fail_times(breaker)
    return times


class TwoDelays:
    """A schedule that ends and says nothing of its peak."""

    def delays(self, rng: object) -> Any:
        return iter((1.0, 2.0))


@pytest.mark.parametrize(
    ("open_for", "expected"),
    [
        (8.0, [8, 8, 8, 8, 8]),
        (constant(8), [8, 8, 8, 8, 8]),
        (linear(1, 2, 6), [1, 3, 5, 6, 6]),
        (exponential(1, 2, 8, jitter="none"), [1, 2, 4, 8, 8]),
        ([1, 4], [1, 4, 4, 4, 4]),
        ([16, 8, 1], [16, 8, 1, 1, 1]),
        (TwoDelays(), [1, 2, 2, 2, 2]),
    ],
    ids=shown,
)
async def test_each_reopening_takes_the_next_open_time_and_the_last_repeats(
    open_for: Any, expected: Sequence[float], autojump_clock: trio.testing.MockClock
) -> None:
    assert await open_times(one_failure(open_for=open_for), 4) == expected


async def test_jitter_of_the_open_time_comes_from_the_rng_that_was_given(
    autojump_clock: trio.testing.MockClock,
) -> None:
    schedule = exponential(1, 2, 64, jitter="equal")
    chance = Random(5)
    expected = []
    for level in range(4):
        delays = schedule.delays(chance)
        expected.append([next(delays) for _ in range(level + 1)][-1])
    breaker = one_failure(open_for=schedule, rng=Random(5))
    await open_circuit(breaker)
    found = []
    for _ in range(4):
        found.append(breaker.statistics().remaining)
        await breaker.wait_admittable()
        await fail_times(breaker)
    assert found == pytest.approx(expected)
    assert len({*expected}) == 4


@pytest.mark.parametrize(("healthy", "level"), [(3.75, 2), (4.0, 1), (7.75, 1), (8.0, 0), (1000.0, 0)])
async def test_each_length_of_the_last_open_time_in_health_takes_one_level_back(
    healthy: float, level: int, autojump_clock: trio.testing.MockClock
) -> None:
    breaker = one_failure(open_for=[1, 2, 4])
    await open_circuit(breaker)
    for _ in range(2):
        await breaker.wait_admittable()
        await fail_times(breaker)
    assert breaker.statistics().level == 2
    await breaker.wait_admittable()
    await breaker.call(succeed)
    await trio.sleep(healthy)
    assert breaker.statistics().level == 2
    await fail_times(breaker)
    assert breaker.statistics().level == level
    assert breaker.statistics().remaining == [1, 2, 4][level]


async def test_levels_stop_where_the_open_times_do_so_that_health_comes_back_quickly(
    autojump_clock: trio.testing.MockClock,
) -> None:
    breaker = one_failure(open_for=exponential(1, 2, 4, jitter="none"))
    await open_circuit(breaker)
    for _ in range(50):
        await breaker.wait_admittable()
        await fail_times(breaker)
    assert breaker.statistics().level == 2


async def test_a_plain_open_time_counts_its_levels_too(autojump_clock: trio.testing.MockClock) -> None:
    breaker = one_failure()
    await open_circuit(breaker)
    for _ in range(50):
        await breaker.wait_admittable()
        await fail_times(breaker)
    assert breaker.statistics().level == 50


# --- wrong arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "wrong", "error", "message"),
    [
        ("trip", 5, TypeError, r"trip must be a rule such as ConsecutiveFailures\(5\).*not 5"),
        ("trip", ConsecutiveFailures, TypeError, "trip must be a rule"),
        ("open_for", 0, ValueError, "open_for must be a number of seconds > 0, not 0"),
        ("open_for", -1.0, ValueError, "open_for must be a number of seconds > 0, not -1.0"),
        ("open_for", math.nan, ValueError, "open_for must be .*not nan"),
        ("open_for", True, TypeError, "open_for must be a number of seconds > 0, not True"),
        ("open_for", "30", TypeError, "open_for must be constant"),
        ("open_for", iter([1.0]), TypeError, "open_for must be usable more than once"),
        ("open_for", [], ValueError, "open_for must have at least one delay"),
        ("probes", 0, ValueError, "probes must be a whole number >= 1, not 0"),
        ("probes", 1.5, TypeError, "probes must be a whole number >= 1, not 1.5"),
        ("probes", True, TypeError, "probes must be"),
        ("successes_to_close", 0, ValueError, "successes_to_close must be a whole number >= 1, not 0"),
        ("probe_lease", 0.0, ValueError, "probe_lease must be a number of seconds > 0, not 0.0"),
        ("probe_lease", math.nan, ValueError, "probe_lease must be"),
        ("on", BaseException, TypeError, "on must be .*not BaseException"),
        ("on", trio.Cancelled, TypeError, "on must be .*not Cancelled"),
        ("on", (), ValueError, "on must be .*not an empty tuple"),
        ("on", 503, TypeError, "on must be .*not 503"),
        ("on_result", 503, TypeError, r"on_result must be a function \(result\) -> bool, not 503"),
        ("on_result", succeed, TypeError, "on_result must be a plain function"),
        ("enforce", 1, TypeError, "enforce must be True or False, not 1"),
        ("rng", 5, TypeError, "rng must be a random.Random"),
        ("name", "", ValueError, "name must be a string with at least one character"),
        ("name", None, TypeError, "name must be a string, not None"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(argument: str, wrong: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CircuitBreaker(**{argument: wrong})


def test_all_configuration_is_by_keyword() -> None:
    with pytest.raises(TypeError, match="positional"):
        CircuitBreaker(ConsecutiveFailures(5))  # type: ignore[misc]
