"""Restarts: the limit against an exact model, the back-off that starts afresh, and whom a restart takes along."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trioresil._kernel.backoff import Listed, exponential
from trioresil._kernel.intensity import Intensity, Pauses, taken_along


@settings(derandomize=True, database=None, deadline=None, max_examples=400)
@given(
    gaps=st.lists(st.sampled_from([0, 0.25, 1, 3.75, 4, 4.25]), max_size=60),
    max_restarts=st.integers(0, 4),
    within=st.sampled_from([0.25, 4, math.inf]),
)
def test_allows_no_more_than_so_many_in_any_half_open_window(
    gaps: list[float], max_restarts: int, within: float
) -> None:
    intensity = Intensity(max_restarts, within)
    now, restarts = 1000.0, list[float]()
    for gap in gaps:
        now += gap
        allowed = len([each for each in restarts if now - within < each <= now]) < max_restarts
        assert intensity.allows(now) is allowed
        restarts += [now] if allowed else []


@pytest.mark.parametrize(("last", "allowed"), [(69.75, False), (70, True)])
def test_restart_is_forgotten_when_it_is_exactly_as_old_as_the_window(last: float, allowed: bool) -> None:
    intensity = Intensity(3, 60)
    assert [intensity.allows(now) for now in (10, 20, 30)] == [True] * 3
    assert intensity.allows(last) is allowed


def test_memory_is_bounded_by_the_limit_and_nothing_is_kept_without_one() -> None:
    limited, unlimited = Intensity(5, math.inf), Intensity(math.inf, 60)
    for now in range(1000):
        assert limited.allows(now) is (now < 5)
        assert unlimited.allows(now)
    assert (len(limited._instants), len(unlimited._instants)) == (5, 0)


def test_back_off_goes_on_after_a_short_life_and_starts_afresh_after_a_stable_one() -> None:
    pauses = Pauses(Listed((1, 2, 3)), random.Random(), 30)
    assert [pauses.next(lived) for lived in (0, 29.75, 0, 0, 30, 0, 1e9)] == [1, 2, 3, 3, 1, 2, 1]


def test_first_life_may_be_long_or_short() -> None:
    assert Pauses(Listed((1, 2)), random.Random(), 30).next(1000) == 1
    assert Pauses(Listed((1, 2)), random.Random(), 30).next(0) == 1


def test_chance_of_the_back_off_is_the_callers() -> None:
    backoff = exponential(jitter="full")
    delays = backoff.delays(random.Random(4))
    pauses = Pauses(backoff, random.Random(4), math.inf)
    assert [pauses.next(1e9) for _ in range(5)] == [next(delays) for _ in range(5)]


@pytest.mark.parametrize(
    ("strategy", "failed", "taken"),
    [
        ("one_for_one", "b", "b"),
        ("one_for_all", "b", "abc"),
        ("one_for_all", "c", "abc"),
        ("rest_for_one", "a", "abc"),
        ("rest_for_one", "b", "bc"),
        ("rest_for_one", "c", "c"),
    ],
)
def test_restart_takes_along(strategy: Any, failed: str, taken: str) -> None:
    assert list(taken_along(strategy, list("abc"), failed)) == list(taken)
