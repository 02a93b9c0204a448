"""remaining(): never early, never longer than it must be."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.kernel._prove import prove
from trioresil._kernel.instants import remaining

FINITE = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)
CLOCK = st.floats(min_value=0, max_value=1e7)
# Here the plain difference, added back, is one unit in the last place short.
EARLY = (0.8103469203716892, 1.9225943025999552)


@prove
@given(now=FINITE, until=FINITE)
@example(*EARLY)
def test_whoever_sleeps_the_remaining_time_is_never_early(now: float, until: float) -> None:
    assert now + remaining(now, until) >= until


@prove
@given(now=CLOCK, until=CLOCK)
def test_the_remaining_time_is_less_than_one_float_above_the_true_difference(now: float, until: float) -> None:
    left = remaining(now, until)
    if left > 0:
        assert Fraction(math.nextafter(left, 0)) < Fraction(until) - Fraction(now)


@prove
@given(now=CLOCK, until=CLOCK)
def test_the_plain_difference_is_returned_wherever_it_suffices(now: float, until: float) -> None:
    if until > now and now + (until - now) >= until:
        assert remaining(now, until) == until - now


def test_a_difference_that_falls_short_is_lengthened_by_one_float() -> None:
    now, until = EARLY
    assert now + (until - now) < until
    assert remaining(now, until) == math.nextafter(until - now, math.inf)


@pytest.mark.parametrize(
    ("now", "until", "left"),
    [
        (100.0, 130.0, 30.0),
        (0.0, 0.1, 0.1),
        (5.0, 5.0, 0.0),
        (6.0, 5.0, 0.0),
        (5.0, -math.inf, 0.0),
        (5.0, math.inf, math.inf),
        (-1.5, 2.0, 3.5),
        (0.0, 5e-324, 5e-324),
    ],
)
def test_remaining_time_of_round_and_of_extreme_instants(now: float, until: float, left: float) -> None:
    assert remaining(now, until) == left
