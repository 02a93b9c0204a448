"""The bucket: the bound in every window, an exact model, and nothing that can spin or become NaN."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernel._prove import prove, prove_briefly
from trioresil._kernel.token_bucket import CREDIT, Bucket


def grant(bucket: Bucket, tokens: float, now: float, queued: bool = False) -> bool:
    """Take tokens if they are ready, as a policy does."""
    if bucket.ready_at(tokens, now, queued) > now:
        return False
    bucket.take(tokens, now, queued)
    return True


def most_above_the_line(grants: list[tuple[float, float]], rate: float) -> float:
    """Return the largest sum of tokens less rate * length over all windows that begin and end with a grant."""
    worst = 0.0
    for first in range(len(grants)):
        total = 0.0
        for at, tokens in grants[first:]:
            total += tokens
            worst = max(worst, total - rate * (at - grants[first][0]))
    return worst


# --- the bound in every window ------------------------------------------------------------------------------------

rates = st.one_of(st.sampled_from([0.1, 1.0, 3.0, 100.0, 4000.0]), st.floats(1e-2, 1e4))
capacities = st.one_of(st.integers(1, 5).map(float), st.floats(0.1, 50))


@st.composite
def attempts(draw: st.DrawFn, queued: bool) -> tuple[float, float, list[tuple[float, float, bool]]]:
    """Draw a rate, a capacity and attempts of (step in time, tokens, queued); steps suit the rate."""
    rate, capacity = draw(rates), draw(capacities)
    shares = st.one_of(st.just(1.0), st.just(0.2), st.floats(0.001, 1))
    step = st.one_of(st.just(0.0), st.floats(0, 1.5 * capacity / rate), st.floats(0, 0.03), st.just(50.0))
    one = st.tuples(step, shares.map(lambda share: share * capacity), st.booleans() if queued else st.just(False))
    return rate, capacity, draw(st.lists(one, min_size=5, max_size=40))


def run_attempts(bucket: Bucket, script: list[tuple[float, float, bool]]) -> list[tuple[float, float]]:
    now, grants = 1000.0, []
    for step, tokens, queued in script:
        now += step
        if grant(bucket, tokens, now, queued):
            grants.append((now, tokens))
    return grants


@prove_briefly
@given(attempts(queued=False))
def test_no_window_gets_more_than_capacity_and_rate_times_its_length(
    case: tuple[float, float, list[tuple[float, float, bool]]],
) -> None:
    rate, capacity, script = case
    grants = run_attempts(Bucket(rate, capacity), script)
    assert most_above_the_line(grants, rate) <= capacity * (1 + 1e-9) + rate * 1e-11


@prove_briefly
@given(attempts(queued=True))
def test_with_a_queue_a_window_gets_at_most_a_hundredth_of_a_second_more(
    case: tuple[float, float, list[tuple[float, float, bool]]],
) -> None:
    rate, capacity, script = case
    grants = run_attempts(Bucket(rate, capacity), script)
    assert most_above_the_line(grants, rate) <= capacity * (1 + 1e-9) + rate * (0.01 + 1e-11)


@prove_briefly
@given(
    case=attempts(queued=True),
    changes=st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["rate", "pause", "charge"]), rates), max_size=8),
)
def test_the_bound_holds_at_the_highest_rate_when_rates_change_and_pauses_and_charges_happen(
    case: tuple[float, float, list[tuple[float, float, bool]]], changes: list[tuple[int, str, float]]
) -> None:
    rate, capacity, script = case
    bucket, now, grants = Bucket(rate, capacity), 1000.0, []
    highest = rate
    for number, (step, tokens, queued) in enumerate(script):
        now += step
        for place, change, value in changes:
            if place == number and change == "rate":
                bucket.set_rate(value, now)
                highest = max(highest, value)
            elif place == number and change == "pause":
                bucket.pause(value / 1e4, now)
            elif place == number:
                bucket.adjust(value / 1e3, now, queued)
        if grant(bucket, tokens, now, queued):
            grants.append((now, tokens))
    assert most_above_the_line(grants, highest) <= capacity * (1 + 1e-9) + highest * (0.01 + 1e-11)


def test_after_a_stall_a_queue_gets_the_credit_and_no_more() -> None:
    bucket = Bucket(100.0, 1.0)
    assert sum(grant(bucket, 1, 10.0, queued=True) for _ in range(500)) == 2


def test_late_wake_ups_of_a_queue_lose_no_rate() -> None:
    late, now, bucket = 0.0009, 10.0, Bucket(4000.0, 1.0)
    bucket.take(1, now, False)
    granted = 0
    while granted < 2000:
        now = max(now, bucket.ready_at(1, now, True)) + late
        while grant(bucket, 1, now, queued=True):
            granted += 1
    assert now - 10.0 == pytest.approx(0.5, rel=0.05)


def test_without_a_queue_an_idle_bucket_is_full_and_never_fuller() -> None:
    bucket = Bucket(1000.0, 4.0)
    assert sum(grant(bucket, 1, 10.0) for _ in range(20)) == 4
    assert sum(grant(bucket, 1, 500.0) for _ in range(20)) == 4


# --- an exact model -------------------------------------------------------------------------------------------------


class ModelBucket:
    """Keeps the level in exact fractions, as of an instant, which is the end of the pause while one is running."""

    def __init__(self, rate: Fraction, capacity: Fraction) -> None:
        self.rate, self.capacity = rate, capacity
        self.level, self.at, self.held = capacity, Fraction(-(10**9)), Fraction(-(10**9))

    def settle(self, now: Fraction) -> None:
        then = max(now, self.held)
        self.level, self.at = min(self.capacity, self.level + self.rate * (then - self.at)), then

    def ready_at(self, tokens: Fraction) -> Fraction:
        return self.at + max(Fraction(0), tokens - self.level) / self.rate

    def pause(self, seconds: Fraction, now: Fraction) -> None:
        until = now + seconds
        self.held = max(self.held, until)
        then = max(self.at, self.held)
        # The level as it will be at the end of the longer pause, and no more than what drips between the two ends.
        self.level = min(self.level + self.rate * (then - self.at), (then - until) * self.rate)
        self.at = then


eighths = st.integers(0, 40).map(lambda n: n / 8)
dyadic_rates = st.sampled_from([0.25, 0.5, 1.0, 2.0, 8.0])
verbs = st.sampled_from(["take", "take", "take", "charge", "return", "pause", "rate", "shift"])


@prove
@given(
    rate=dyadic_rates,
    capacity=st.integers(1, 6),
    script=st.lists(st.tuples(eighths, verbs, eighths, dyadic_rates), max_size=40),
)
def test_the_bucket_agrees_exactly_with_a_model_in_fractions(
    rate: float, capacity: int, script: list[tuple[float, str, float, float]]
) -> None:
    bucket, model = Bucket(rate, capacity), ModelBucket(Fraction(rate), Fraction(capacity))
    now, shifted = 100.0, 0.0
    for step, verb, amount, other_rate in script:
        now += step
        model.settle(Fraction(now))
        clock, tokens = now + shifted, min(amount + 0.125, float(capacity))
        if verb == "take":
            ready = bucket.ready_at(tokens, clock, False)
            assert max(ready, clock) == model.ready_at(Fraction(tokens)) + Fraction(shifted)
            if ready <= clock:
                bucket.take(tokens, clock, False)
                model.level -= Fraction(tokens)
        elif verb in ("charge", "return"):
            bucket.adjust(amount if verb == "charge" else -amount, clock)
            model.level -= Fraction(amount) * (1 if verb == "charge" else -1)
            model.level = min(model.capacity, model.level)
        elif verb == "pause":
            bucket.pause(amount, clock)
            model.pause(Fraction(amount), Fraction(now))
        elif verb == "rate":
            bucket.set_rate(other_rate, clock)
            model.rate = Fraction(other_rate)
            assert bucket.rate == other_rate
        else:
            bucket.shift(amount)
            shifted += amount
        assert bucket.level(now + shifted) == model.level
        assert bucket.paused_for(now + shifted) == max(Fraction(0), model.held - Fraction(now))


# --- what the law says, by hand -----------------------------------------------------------------------------------


def test_a_bucket_starts_full_whatever_the_clock_reads() -> None:
    bucket = Bucket(2.0, 3.0)
    for now in (-1e6, 0.0, 1e9):
        assert bucket.level(now) == 3.0
        assert bucket.ready_at(3.0, now, False) <= now
        assert bucket.paused_for(now) == 0.0
    assert (bucket.rate, bucket.capacity, bucket.zero, bucket.held_until) == (2.0, 3.0, -math.inf, -math.inf)


def test_tokens_come_back_at_the_rate() -> None:
    bucket = Bucket(2.0, 3.0)
    bucket.take(3.0, 10.0, False)
    assert bucket.level(10.0) == 0.0
    assert bucket.ready_at(1.0, 10.0, False) == 10.5
    assert bucket.ready_at(3.0, 10.0, False) == 11.5
    assert bucket.level(10.75) == 1.5
    assert bucket.level(99.0) == 3.0


def test_the_wait_of_more_than_capacity_is_that_of_a_queue_of_it() -> None:
    bucket = Bucket(2.0, 3.0)
    assert bucket.ready_at(5.0, 10.0, False) == 11.0
    bucket.take(3.0, 10.0, False)
    assert bucket.ready_at(7.0, 10.0, False) == 13.5


@pytest.mark.parametrize("rate", [3.0, 7.0, 0.3, 1 / 3, 49.0])
@pytest.mark.parametrize("now", [0.1, 10.0, 12345.678])
def test_a_full_bucket_gives_its_capacity_at_once_in_spite_of_rounding(rate: float, now: float) -> None:
    bucket = Bucket(rate, 1.0)
    assert bucket.ready_at(1.0, now, False) <= now
    bucket.take(1.0, now, False)
    assert 0 <= bucket.level(now) < 1e-9


def test_a_bucket_that_has_just_become_full_gives_its_capacity_at_once_too() -> None:
    now, bucket = 7.7, Bucket(0.3, 1.0)
    bucket.zero = now - 1 / 0.3
    assert bucket.zero + 1 / 0.3 > now
    assert bucket.ready_at(1.0, now, False) == now


@prove
@given(
    rate=st.floats(1e-3, 1e6),
    capacity=st.floats(0.01, 1e4),
    start=st.floats(0, 1e7),
    script=st.lists(st.tuples(st.floats(0.001, 1), st.booleans(), st.booleans()), min_size=1, max_size=20),
)
def test_who_sleeps_until_ready_is_granted_without_a_second_sleep(
    rate: float, capacity: float, start: float, script: list[tuple[float, bool, bool]]
) -> None:
    bucket, now = Bucket(rate, capacity), start
    for share, queued_before, queued_after in script:
        tokens = share * capacity
        now = max(now, bucket.ready_at(tokens, now, queued_before))
        assert bucket.ready_at(tokens, now, queued_before) <= now
        assert bucket.ready_at(tokens, now, True) <= now
        if bucket.ready_at(tokens, now, queued_after) <= now:
            bucket.take(tokens, now, queued_after)


def test_a_queue_counts_from_the_line_before_lateness() -> None:
    bucket = Bucket(4.0, 1.0)
    bucket.take(1.0, 10.0, False)
    assert bucket.ready_at(1.0, 10.255, True) == 10.25
    bucket.take(1.0, 10.255, True)
    assert bucket.zero == 10.25
    bucket.take(1.0, 11.0, True)
    assert bucket.zero == 11.0 - CREDIT


def test_a_charge_may_put_the_level_below_zero() -> None:
    bucket = Bucket(2.0, 4.0)
    bucket.adjust(7.0, 10.0)
    assert bucket.level(10.0) == -3.0
    assert bucket.ready_at(1.0, 10.0, False) == 12.0


def test_tokens_given_back_never_fill_above_capacity() -> None:
    bucket = Bucket(2.0, 4.0)
    bucket.take(1.0, 10.0, False)
    bucket.adjust(-3.0, 10.0)
    assert bucket.level(10.0) == 4.0
    assert sum(grant(bucket, 1, 10.0) for _ in range(9)) == 4


def test_a_charge_while_somebody_queues_leaves_the_credit_and_is_never_lost() -> None:
    bucket = Bucket(4.0, 1.0)
    bucket.adjust(2.0, 10.0, queued=True)
    assert bucket.zero == 10.25 - CREDIT
    bucket.adjust(-5.0, 10.0, queued=True)
    assert bucket.zero == 9.75 - CREDIT
    bucket.adjust(2.0, 10.0)
    assert bucket.zero == 10.25


def test_the_first_grant_after_a_pause_is_its_tokens_over_the_rate_later() -> None:
    bucket = Bucket(2.0, 4.0)
    bucket.pause(30.0, 10.0)
    assert bucket.paused_for(10.0) == 30.0
    assert bucket.paused_for(39.0) == 1.0
    assert bucket.paused_for(41.0) == 0.0
    assert bucket.level(10.0) == 0.0
    assert bucket.ready_at(1.0, 10.0, False) == 40.5
    assert bucket.ready_at(4.0, 10.0, True) == 42.0


def test_a_shorter_pause_does_not_shorten_a_longer_one() -> None:
    bucket = Bucket(2.0, 4.0)
    bucket.pause(30.0, 10.0)
    bucket.pause(1.0, 10.0)
    assert bucket.ready_at(1.0, 10.0, False) == 40.5


def test_a_pause_does_not_forgive_a_debt() -> None:
    bucket = Bucket(2.0, 4.0)
    bucket.adjust(44.0, 10.0)
    bucket.pause(3.0, 10.0)
    assert bucket.ready_at(1.0, 10.0, False) == 30.5


def test_giving_back_does_not_shorten_a_pause() -> None:
    bucket = Bucket(2.0, 4.0)
    bucket.pause(30.0, 10.0)
    bucket.adjust(-9.0, 10.0)
    assert bucket.level(10.0) == 4.0
    assert bucket.ready_at(4.0, 10.0, False) == 40.0
    assert bucket.ready_at(1.0, 10.0, True) == 40.0


def test_a_changed_rate_keeps_the_level() -> None:
    bucket = Bucket(2.0, 4.0)
    bucket.take(3.0, 10.0, False)
    bucket.set_rate(8.0, 10.0)
    assert bucket.level(10.0) == 1.0
    assert bucket.ready_at(3.0, 10.0, False) == 10.25
    bucket.adjust(5.0, 10.0)
    bucket.set_rate(0.5, 10.0)
    assert bucket.level(10.0) == -4.0
    assert bucket.ready_at(1.0, 10.0, False) == 20.0


def test_a_changed_rate_keeps_a_full_bucket_full_and_a_running_pause_as_long() -> None:
    bucket = Bucket(2.0, 4.0)
    bucket.set_rate(8.0, 10.0)
    assert bucket.ready_at(4.0, 10.0, False) <= 10.0
    bucket.pause(30.0, 10.0)
    bucket.set_rate(4.0, 10.0)
    assert bucket.ready_at(1.0, 10.0, False) == 40.25


def test_shift_moves_the_line_and_the_pause() -> None:
    bucket = Bucket(2.0, 4.0)
    bucket.take(4.0, 10.0, False)
    bucket.shift(-90.0)
    assert bucket.level(-79.0) == 2.0
    bucket.pause(5.0, -79.0)
    bucket.shift(100.0)
    assert bucket.paused_for(21.0) == 5.0
    assert bucket.ready_at(1.0, 21.0, False) == 26.5


# --- no limit -------------------------------------------------------------------------------------------------------


def test_an_infinite_rate_limits_nothing() -> None:
    bucket = Bucket(math.inf, 1.0)
    for queued in (False, True):
        assert all(grant(bucket, 1, 10.0, queued) for _ in range(100))
    assert bucket.ready_at(50.0, 10.0, False) <= 10.0
    assert bucket.level(10.0) == 1.0
    bucket.adjust(5.0, 10.0)
    assert bucket.level(10.0) == 1.0


def test_an_infinite_rate_still_pauses() -> None:
    bucket = Bucket(math.inf, 2.0)
    bucket.pause(5.0, 10.0)
    assert bucket.ready_at(1.0, 10.0, False) == 15.0
    assert bucket.level(10.0) == 0.0
    assert bucket.level(15.0) == 2.0
    bucket.set_rate(2.0, 11.0)
    assert bucket.ready_at(1.0, 11.0, False) == 15.5


def test_a_finite_rate_after_an_infinite_one_starts_full() -> None:
    bucket = Bucket(2.0, 4.0)
    bucket.adjust(9.0, 10.0)
    bucket.set_rate(math.inf, 10.0)
    assert bucket.ready_at(4.0, 10.0, False) <= 10.0
    bucket.set_rate(2.0, 10.0)
    assert bucket.level(10.0) == 4.0


def test_an_endless_pause_holds_everything_and_is_a_number() -> None:
    bucket = Bucket(2.0, 4.0)
    bucket.pause(math.inf, 10.0)
    bucket.adjust(-3.0, 10.0)
    assert bucket.level(10.0) == 0.0
    assert bucket.paused_for(10.0) == math.inf
    assert bucket.ready_at(1.0, 10.0, False) == math.inf


def test_an_infinite_rate_pays_even_a_debt_that_is_beyond_a_float() -> None:
    bucket = Bucket(1e-10, 1.0)
    bucket.adjust(1e300, 10.0)
    assert bucket.zero == math.inf
    bucket.set_rate(math.inf, 10.0)
    assert bucket.zero == 10.0
    assert bucket.ready_at(1.0, 10.0, False) <= 10.0


wild = st.one_of(st.floats(5e-324, math.inf), st.sampled_from([1e-300, 1.0, 1e300, math.inf]))


@prove
@given(
    rate=wild,
    capacity=st.floats(1e-300, 1e300),
    script=st.lists(st.tuples(st.sampled_from(["take", "adjust", "pause", "rate"]), wild, st.booleans()), max_size=15),
)
def test_nothing_ever_becomes_nan(rate: float, capacity: float, script: list[tuple[str, float, bool]]) -> None:
    try:
        bucket = Bucket(rate, capacity)
    except ValueError:
        return
    now = 0.0
    for verb, value, flag in script:
        now += 0.5
        if verb == "take":
            grant(bucket, min(value, capacity), now, flag)
        elif verb == "adjust":
            bucket.adjust(min(value, 1e300) * (1 if flag else -1), now)
        elif verb == "pause":
            bucket.pause(value, now)
        elif capacity / value < math.inf:
            bucket.set_rate(value, now)
        answers = [bucket.level(now), bucket.ready_at(capacity, now, flag), bucket.paused_for(now), bucket.zero]
        assert not any(map(math.isnan, answers))


@pytest.mark.parametrize(
    ("rate", "capacity", "error", "message"),
    [
        (0, 1, ValueError, "rate must be a number > 0, not 0"),
        (-1, 1, ValueError, "rate must be a number > 0, not -1"),
        (math.nan, 1, ValueError, "rate must be a number > 0, not nan"),
        ("5", 1, TypeError, "rate must be a number > 0, not '5'"),
        (1, 0, ValueError, "capacity must be a finite number > 0, not 0"),
        (1, math.inf, ValueError, "capacity must be a finite number > 0, not inf"),
        (1, True, TypeError, "capacity must be a finite number > 0, not True"),
        (
            1e-300,
            1e300,
            ValueError,
            "rate must be a number > 0 that fills the capacity of 1e+300 in finite time, not 1e-300",
        ),
    ],
)
def test_wrong_arguments_are_refused(rate: Any, capacity: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        Bucket(rate, capacity)
    assert str(caught.value) == message


def test_a_refused_rate_changes_nothing() -> None:
    bucket = Bucket(2.0, 4.0)
    bucket.take(4.0, 10.0, False)
    with pytest.raises(ValueError, match=r"^rate must be a number > 0, not 0$"):
        bucket.set_rate(0, 11.0)
    assert (bucket.rate, bucket.level(11.0)) == (2.0, 2.0)
