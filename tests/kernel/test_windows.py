"""Windows against exact models that keep every call."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernel._prove import prove
from trioresil._kernel.windows import CountWindow, TimeWindow

# --- the last calls ------------------------------------------------------------------------------------------------


@prove
@given(size=st.integers(1, 9), verdicts=st.lists(st.sampled_from([True, False, None]), max_size=60))
def test_a_count_window_holds_exactly_the_last_calls(size: int, verdicts: list[bool | None]) -> None:
    window = CountWindow(size)
    model: deque[bool] = deque(maxlen=size)
    for failed in verdicts:
        if failed is None:
            window.clear()
            model.clear()
        else:
            window.record(failed)
            model.append(failed)
        assert (window.calls, window.failed) == (len(model), sum(model))


def test_a_count_window_knows_its_size_and_starts_empty() -> None:
    window = CountWindow(7)
    assert (window.size, window.calls, window.failed) == (7, 0, 0)


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-3, ValueError), (2.0, TypeError), (True, TypeError)])
def test_a_count_window_refuses_a_wrong_size(size: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"^size must be a whole number >= 1, not {size}$"):
        CountWindow(size)


# --- the last seconds ----------------------------------------------------------------------------------------------


class ModelWindow:
    """Keeps each call with the number of its slice, counted from the first call after an emptiness by age."""

    def __init__(self, width: float, slices: int) -> None:
        self.width, self.slices = width, slices
        self.clear()

    def clear(self) -> None:
        self.begins: float | None = None
        self.slice = 0
        self.kept: list[tuple[int, bool]] = []

    def advance(self, now: float) -> None:
        if self.begins is None:
            self.begins = now
        current = math.floor((now - self.begins) / self.width)
        if current - self.slice >= self.slices:
            self.clear()
            self.begins = now
        else:
            self.slice = max(self.slice, current)

    def record(self, now: float, failed: bool) -> None:
        self.advance(now)
        self.kept.append((self.slice, failed))

    def counts(self) -> tuple[int, int]:
        lately = [failed for number, failed in self.kept if number > self.slice - self.slices]
        return len(lately), sum(lately)


# All times are multiples of 1/8, so that the model is exact. Steps back are there too.
steps = st.one_of(st.integers(0, 6), st.integers(-20, 90)).map(lambda eighths: eighths / 8)
actions = st.sampled_from(["good", "bad", "look", "clear", "shift"])


@prove
@given(
    width=st.sampled_from([0.125, 0.5, 1.0, 2.0]),
    slices=st.integers(1, 12),
    script=st.lists(st.tuples(steps, actions), max_size=80),
    start=st.integers(-1000, 1000),
)
def test_a_time_window_agrees_with_a_model_that_keeps_every_call(
    width: float, slices: int, script: list[tuple[float, str]], start: int
) -> None:
    window, model, now, shifted = TimeWindow(width * slices, slices), ModelWindow(width, slices), float(start), 0.0
    for step, action in script:
        now += step
        if action == "clear":
            window.clear()
            model.clear()
        elif action == "shift":
            window.shift(step * 16)
            shifted += step * 16
        elif action == "look":
            window.advance(now + shifted)
            model.advance(now)
        else:
            window.record(now + shifted, action == "bad")
            model.record(now, action == "bad")
        assert (window.calls, window.failed) == model.counts()


@prove
@given(
    length=st.floats(1e-3, 1e5),
    script=st.lists(st.tuples(st.floats(0, 0.4), st.booleans()), min_size=1, max_size=60),
    start=st.floats(0, 1e6),
)
def test_calls_count_for_nine_tenths_of_the_window_at_least_and_for_the_window_at_most(
    length: float, script: list[tuple[float, bool]], start: float
) -> None:
    window, now = TimeWindow(length), start
    past: list[tuple[float, bool]] = []
    slack = 1e-6 * length + 1e-8
    for share, failed in script:
        now += share * length
        window.record(now, failed)
        past.append((now, failed))
        surely = [bad for at, bad in past if now - at < 0.9 * length - slack]
        perhaps = [bad for at, bad in past if now - at < length + slack]
        assert len(surely) <= window.calls <= len(perhaps)
        assert sum(surely) <= window.failed <= sum(perhaps)


def test_a_single_call_counts_until_just_before_the_window_is_over() -> None:
    window = TimeWindow(10.0)
    window.record(100.5, True)
    window.advance(math.nextafter(110.5, 0))
    assert (window.calls, window.failed) == (1, 1)
    window.advance(110.5)
    assert (window.calls, window.failed) == (0, 0)


def test_all_slices_that_passed_while_idle_are_emptied() -> None:
    window = TimeWindow(10.0)
    for second in range(10):
        window.record(float(second), True)
    window.advance(14.0)
    assert (window.calls, window.failed) == (5, 5)
    window.record(18.0, False)
    assert (window.calls, window.failed) == (2, 1)


def test_after_all_calls_are_forgotten_the_next_one_begins_a_slice_of_its_own() -> None:
    window = TimeWindow(10.0)
    window.record(0.0, True)
    window.record(10.5, True)
    window.advance(20.4)
    assert window.calls == 1
    window.advance(20.5)
    assert window.calls == 0


def test_the_ring_goes_round_more_than_once() -> None:
    window = TimeWindow(4.0, 4)
    for second in range(50):
        window.record(float(second), second % 2 == 0)
        assert (window.calls, window.failed) == (min(second + 1, 4), 1 if second == 0 else min(second // 2 + 1, 2))


def test_a_gap_as_long_as_the_window_costs_no_more_than_a_short_one() -> None:
    window = TimeWindow(1e-6)
    window.record(0.0, True)
    window.advance(1e12)  # would be 10**19 slices
    assert (window.calls, window.failed) == (0, 0)


def test_a_time_that_goes_back_counts_in_the_current_slice() -> None:
    window = TimeWindow(10.0)
    window.record(100.0, True)
    window.record(105.0, True)
    window.record(3.0, True)
    assert window.failed == 3
    window.advance(113.5)
    assert window.failed == 2


def test_looking_does_not_count() -> None:
    window = TimeWindow(10.0)
    window.advance(5.0)
    assert (window.calls, window.failed) == (0, 0)


def test_the_smallest_window_works() -> None:
    window = TimeWindow(5e-324)
    for now in (0.0, 0.0, 1.0):
        window.record(now, True)
        assert window.calls == 1


def test_ten_slices_are_the_default() -> None:
    window = TimeWindow(10.0)
    window.record(0.0, True)
    window.record(0.99, True)
    window.record(1.0, True)
    window.advance(10.0)
    assert window.calls == 1


@pytest.mark.parametrize(
    ("window", "slices", "error", "message"),
    [
        (0, 10, ValueError, "window must be a finite number of seconds > 0, not 0"),
        (math.inf, 10, ValueError, "window must be a finite number of seconds > 0, not inf"),
        (math.nan, 10, ValueError, "window must be a finite number of seconds > 0, not nan"),
        ("10", 10, TypeError, "window must be a finite number of seconds > 0, not '10'"),
        (1.0, 0, ValueError, "slices must be a whole number >= 1, not 0"),
    ],
)
def test_a_time_window_refuses_wrong_arguments(window: Any, slices: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        TimeWindow(window, slices)
    assert str(caught.value) == message
