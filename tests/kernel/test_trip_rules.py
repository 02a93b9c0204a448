"""Trip rules: when each trips, what it needs, and how they combine."""

from __future__ import annotations

import math
from collections import deque
from fractions import Fraction
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernel._prove import prove
from trioresil._kernel.trip_rules import (
    AnyOf,
    ConsecutiveFailures,
    FailureRatio,
    FailuresOf,
    SlowRatio,
    TripCounter,
    TripRule,
)

verdicts = st.lists(st.booleans(), max_size=60)


def feed(counter: TripCounter, pattern: str, now: float = 0.0) -> list[bool]:
    """Record one call for each letter: x failed, s was slow, any other was good; and return the answers."""
    return [counter.record(now, letter == "x", 9.0 if letter == "s" else 0.0) for letter in pattern]


def first_trip(counter: TripCounter, pattern: str) -> int | None:
    """Return after how many calls the counter tripped first."""
    answers = feed(counter, pattern)
    return answers.index(True) + 1 if True in answers else None


# --- failures in a row ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "pattern", "trip"),
    [(1, "x", 1), (3, "xxx", 3), (3, "xx.xx.xx", None), (3, "xx.xxx", 6), (2, "....", None)],
)
def test_consecutive_failures_trip_at_n_in_a_row(n: int, pattern: str, trip: int | None) -> None:
    assert first_trip(ConsecutiveFailures(n).counter(), pattern) == trip


def test_a_tripped_counter_goes_on_saying_so_until_a_success_or_clear() -> None:
    counter = ConsecutiveFailures(2).counter()
    assert feed(counter, "xxx.x") == [False, True, True, False, False]
    counter.clear()
    assert feed(counter, "xx") == [False, True]


# --- failures among the last calls ---------------------------------------------------------------------------------


@prove
@given(k=st.integers(1, 6), more=st.integers(0, 6), failures=verdicts)
def test_failures_of_trips_exactly_when_k_of_the_last_n_failed(k: int, more: int, failures: list[bool]) -> None:
    counter = FailuresOf(k, of=k + more).counter()
    last: deque[bool] = deque(maxlen=k + more)
    for failed in failures:
        last.append(failed)
        assert counter.record(0.0, failed, 0.0) == (sum(last) >= k)


def test_failures_of_may_trip_before_it_has_seen_n_calls() -> None:
    assert first_trip(FailuresOf(2, of=100).counter(), ".x.x") == 4


def test_clear_forgets_the_last_calls() -> None:
    counter = FailuresOf(2, of=5).counter()
    feed(counter, "x")
    counter.clear()
    assert feed(counter, "x.x") == [False, False, True]


# --- ratios --------------------------------------------------------------------------------------------------------


@prove
@given(numerator=st.integers(1, 40), more=st.integers(0, 40), min_calls=st.integers(1, 30), failures=verdicts)
def test_failure_ratio_trips_exactly_at_the_ratio_over_enough_calls(
    numerator: int, more: int, min_calls: int, failures: list[bool]
) -> None:
    ratio = Fraction(numerator, numerator + more)
    counter = FailureRatio(numerator / (numerator + more), min_calls=min_calls).counter()
    failed = 0
    for calls, bad in enumerate(failures, start=1):
        failed += bad
        assert counter.record(1.0, bad, 0.0) == (calls >= min_calls and Fraction(failed, calls) >= ratio)


@pytest.mark.parametrize("percent", range(1, 101))
def test_a_ratio_in_hundredths_trips_at_exactly_so_many_of_a_hundred(percent: int) -> None:
    ratio = float(f"{percent / 100:.2f}")
    good, bad = "." * (100 - percent), "x" * percent
    assert first_trip(FailureRatio(ratio, min_calls=100).counter(), good + bad) == 100
    assert first_trip(FailureRatio(ratio, min_calls=100).counter(), good + "." + bad[1:]) is None


def test_the_call_that_makes_the_minimum_complete_trips_even_if_it_succeeded() -> None:
    assert feed(FailureRatio(0.5, min_calls=4).counter(), "xxx.") == [False, False, False, True]


def test_calls_that_are_older_than_the_window_do_not_count() -> None:
    counter = FailureRatio(0.5, window=10, min_calls=2).counter()
    assert feed(counter, "x", now=0.0) == [False]
    assert feed(counter, "x", now=10.0) == [False]
    assert feed(counter, "x", now=19.9) == [True]


def test_shift_keeps_the_age_of_calls() -> None:
    for counter in (
        FailureRatio(0.5, window=10, min_calls=2).counter(),
        (ConsecutiveFailures(9) | FailureRatio(0.5, window=10, min_calls=2)).counter(),
    ):
        feed(counter, "x", now=0.0)
        counter.shift(1000.0)
        assert feed(counter, "x", now=1005.0) == [True]
        counter.shift(-1000.0)
        assert feed(counter, "x", now=15.0) == [False]


def test_clear_forgets_the_calls_of_the_window() -> None:
    counter = FailureRatio(0.5, min_calls=2).counter()
    feed(counter, "x")
    counter.clear()
    assert feed(counter, "x.") == [False, True]


@pytest.mark.parametrize(("duration", "slow"), [(2.0, False), (math.nextafter(2.0, 3), True), (0.0, False)])
def test_slow_is_longer_than_slower_than(duration: float, slow: bool) -> None:
    assert SlowRatio(1.0, slower_than=2, min_calls=1).counter().record(0.0, False, duration) is slow


def test_slow_ratio_trips_on_successes_and_not_on_quick_failures() -> None:
    assert feed(SlowRatio(0.5, min_calls=4).counter(), "..ss") == [False, False, False, True]
    assert feed(SlowRatio(0.5, min_calls=4).counter(), "xxxxx") == [False] * 5


def test_the_windows_of_ratios_default_to_thirty_seconds_and_twenty_calls() -> None:
    assert FailureRatio(0.5) == FailureRatio(0.5, window=30.0, min_calls=20)
    assert SlowRatio(0.5) == SlowRatio(0.5, slower_than=2.0, window=30.0, min_calls=20)


def test_slow_ratio_forgets_after_its_window() -> None:
    counter = SlowRatio(0.5, window=10, min_calls=2).counter()
    feed(counter, "s", now=0.0)
    assert feed(counter, "s", now=9.0) == [True]
    assert feed(counter, "s", now=50.0) == [False]


# --- combinations --------------------------------------------------------------------------------------------------


@prove
@given(failures=verdicts)
def test_either_rule_trips_and_both_see_every_call(failures: list[bool]) -> None:
    either = (ConsecutiveFailures(3) | FailuresOf(4, of=9)).counter()
    alone = [ConsecutiveFailures(3).counter(), FailuresOf(4, of=9).counter()]
    for failed in failures:
        answers = [counter.record(0.0, failed, 0.0) for counter in alone]
        assert either.record(0.0, failed, 0.0) == any(answers)


def test_combined_counters_are_cleared_together() -> None:
    counter = (ConsecutiveFailures(2) | FailuresOf(2, of=9)).counter()
    feed(counter, "x")
    counter.clear()
    assert feed(counter, "x.x") == [False, False, True]


def test_combining_is_flat_in_the_order_written() -> None:
    a, b, c = ConsecutiveFailures(1), FailuresOf(2, of=3), FailureRatio(0.5)
    assert (a | b) | c == a | (b | c) == AnyOf((a, b, c))


@pytest.mark.parametrize("other", [None, 5, "rule", ConsecutiveFailures])
def test_a_rule_combines_with_nothing_but_a_rule(other: Any) -> None:
    with pytest.raises(TypeError):
        ConsecutiveFailures(1) | other
    with pytest.raises(TypeError):
        other | ConsecutiveFailures(1)


@pytest.mark.parametrize(
    ("rule", "uses_clock"),
    [
        (ConsecutiveFailures(1), False),
        (FailuresOf(1, of=1), False),
        (FailureRatio(0.5), True),
        (SlowRatio(0.5), True),
        (ConsecutiveFailures(1) | FailuresOf(1, of=1), False),
        (ConsecutiveFailures(1) | FailureRatio(0.5), True),
        (SlowRatio(0.5) | ConsecutiveFailures(1), True),
    ],
)
def test_a_rule_uses_the_clock_if_any_of_its_parts_does(rule: TripRule, uses_clock: bool) -> None:
    assert rule.uses_clock is uses_clock


@pytest.mark.parametrize("rule", [ConsecutiveFailures(3), FailuresOf(3, of=7)])
def test_rules_without_a_clock_ignore_now_and_duration(rule: TripRule) -> None:
    counter, other = rule.counter(), rule.counter()
    for failed in (True, False, True, True, True):
        assert counter.record(0.0, failed, 0.0) == other.record(math.nan, failed, math.nan)
    counter.shift(5.0)


# --- rules as values -----------------------------------------------------------------------------------------------


def test_each_breaker_gets_a_counter_of_its_own() -> None:
    for rule in (ConsecutiveFailures(2), FailuresOf(2, of=2), FailureRatio(1, min_calls=2), SlowRatio(1, min_calls=2)):
        for whole in (rule, rule | rule):
            one, two = whole.counter(), whole.counter()
            assert not any(feed(one, "x") + feed(two, "s"))


def test_rules_are_frozen_values_that_look_like_their_source() -> None:
    rule = ConsecutiveFailures(5) | FailuresOf(3, of=10) | FailureRatio(0.5) | SlowRatio(0.25, slower_than=1)
    assert repr(rule) == (
        "ConsecutiveFailures(n=5) | FailuresOf(k=3, of=10) | FailureRatio(ratio=0.5, window=30.0, min_calls=20)"
        " | SlowRatio(ratio=0.25, slower_than=1, window=30.0, min_calls=20)"
    )
    assert hash(rule) == hash(eval(repr(rule)))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        rule.rules = ()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("rule", "pattern", "status"),
    [
        (ConsecutiveFailures(5), "x.xxx", "3/5 consecutive failures"),
        (FailuresOf(3, of=10), ".xx.", "2/3 failures in the last 4 of 10 calls"),
        (FailureRatio(0.5, min_calls=4), "x...", "failure ratio 0.25 of 0.5 over 4 calls"),
        (FailureRatio(0.5), "x..", "failure ratio 0.333 of 0.5 over 3 of 20 calls"),
        (FailureRatio(0.5), "", "failure ratio 0 of 0.5 over 0 of 20 calls"),
        (SlowRatio(0.5, min_calls=1), "s...", "slow ratio 0.25 of 0.5 over 4 calls"),
        (
            ConsecutiveFailures(5) | FailuresOf(3, of=10),
            "x",
            "1/5 consecutive failures, 1/3 failures in the last 1 of 10 calls",
        ),
    ],
)
def test_a_counter_describes_how_near_the_circuit_is_to_opening(rule: TripRule, pattern: str, status: str) -> None:
    counter = rule.counter()
    feed(counter, pattern)
    assert counter.describe() == status


class AnyFailure(TripRule):
    """A rule of one's own with nothing but what it must have."""

    class Counter(TripCounter):
        def record(self, now: float, failed: bool, duration: float) -> bool:
            return failed

        def clear(self) -> None:
            pass

    def counter(self) -> TripCounter:
        return self.Counter()


def test_a_rule_of_ones_own_needs_only_record_and_clear() -> None:
    assert AnyFailure().uses_clock
    counter = (AnyFailure() | ConsecutiveFailures(2)).counter()
    counter.shift(3.0)
    assert counter.describe() == "0/2 consecutive failures"
    assert feed(counter, ".x") == [False, True]
    counter.clear()
    assert AnyFailure.Counter().describe() == ""


def test_a_rule_without_a_counter_can_not_be_made() -> None:
    with pytest.raises(TypeError):
        TripRule()  # type: ignore[abstract]
    with pytest.raises(TypeError):
        TripCounter()  # type: ignore[abstract]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ConsecutiveFailures(0), ValueError, "n must be a whole number >= 1, not 0"),
        (lambda: ConsecutiveFailures(2.0), TypeError, "n must be a whole number >= 1, not 2.0"),  # type: ignore[arg-type]
        (lambda: ConsecutiveFailures(True), TypeError, "n must be a whole number >= 1, not True"),
        (lambda: FailuresOf(0, of=5), ValueError, "k must be a whole number >= 1, not 0"),
        (lambda: FailuresOf(5, of=4), ValueError, "of must be a whole number >= 5, not 4"),
        (lambda: FailuresOf(1, of=1.5), TypeError, "of must be a whole number >= 1, not 1.5"),  # type: ignore[arg-type]
        (lambda: FailureRatio(0), ValueError, "ratio must be a number > 0 and <= 1, not 0"),
        (lambda: FailureRatio(1.1), ValueError, "ratio must be a number > 0 and <= 1, not 1.1"),
        (lambda: FailureRatio(math.nan), ValueError, "ratio must be a number > 0 and <= 1, not nan"),
        (lambda: FailureRatio("1"), TypeError, "ratio must be a number > 0 and <= 1, not '1'"),  # type: ignore[arg-type]
        (lambda: FailureRatio(1, window=0), ValueError, "window must be a finite number of seconds > 0, not 0"),
        (
            lambda: FailureRatio(1, window=math.inf),
            ValueError,
            "window must be a finite number of seconds > 0, not inf",
        ),
        (lambda: FailureRatio(1, min_calls=0), ValueError, "min_calls must be a whole number >= 1, not 0"),
        (lambda: SlowRatio(2), ValueError, "ratio must be a number > 0 and <= 1, not 2"),
        (lambda: SlowRatio(1, slower_than=0), ValueError, "slower_than must be a finite number of seconds > 0, not 0"),
        (lambda: SlowRatio(1, window=-1), ValueError, "window must be a finite number of seconds > 0, not -1"),
        (lambda: SlowRatio(1, min_calls=1.0), TypeError, "min_calls must be a whole number >= 1, not 1.0"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments_are_refused_by_name_range_and_value(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "make",
    [
        lambda: FailuresOf(1, 2),  # type: ignore[call-arg]
        lambda: FailureRatio(0.5, 30),  # type: ignore[call-arg]
        lambda: SlowRatio(0.5, 2),  # type: ignore[call-arg]
    ],
)
def test_all_but_the_first_argument_have_names(make: Any) -> None:
    with pytest.raises(TypeError):
        make()
