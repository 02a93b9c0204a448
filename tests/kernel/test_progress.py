"""Progress: the mean rate, and the time that the rest will take at it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioresil._kernel.progress import Progress, measure


@pytest.mark.parametrize(
    ("done", "total", "seconds", "rate", "eta"),
    [
        (0, 10, 0.0, 0.0, None),
        (0, 10, 5.0, 0.0, None),
        (3, 10, 0.0, 0.0, None),
        (4, 10, 2.0, 2.0, 3.0),
        (10, 10, 5.0, 2.0, 0.0),
        (10, 10, 0.0, 0.0, 0.0),
        (0, 0, 0.0, 0.0, 0.0),
        (4, None, 2.0, 2.0, None),
        (11, 10, 2.0, 5.5, 0.0),
    ],
)
def test_rate_is_the_mean_and_eta_what_is_left_at_that_rate(
    done: int, total: int | None, seconds: float, rate: float, eta: float | None
) -> None:
    assert measure(done, total, seconds) == Progress(done=done, total=total, rate=rate, eta=eta)


@given(st.integers(1, 10**9), st.integers(0, 10**9), st.floats(1e-3, 1e9))
def test_at_an_even_pace_eta_is_right(done: int, left: int, seconds: float) -> None:
    progress = measure(done, done + left, seconds)
    assert progress.eta == pytest.approx(left * seconds / done)
