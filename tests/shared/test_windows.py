"""The check itself can fail, and finds the worst window, whatever the windows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.shared._windows import excess


def test_one_grant_too_many_is_found() -> None:
    even = [(index / 10, 1.0) for index in range(20)]
    assert excess(even, rate=10, burst=1) <= 1e-9
    assert excess([*even, (1.0, 1.0)], rate=10, burst=1) > 0.9


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 3)), min_size=1, max_size=12))
def test_it_is_the_worst_of_all_windows(grants: list[tuple[int, int]]) -> None:
    windows = [
        sum(tokens for at, tokens in grants if first <= at <= last) - 2 * (last - first) - 3
        for first, _ in grants
        for last, _ in grants
        if last >= first
    ]
    assert excess([(float(at), float(tokens)) for at, tokens in grants], rate=2, burst=3) == max(windows)
