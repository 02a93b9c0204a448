"""Backoff: the formulas, the bound that nothing passes, the peak, and what may be given as a backoff."""

from __future__ import annotations

import heapq
import math
import random
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernel._prove import FixedChance, prove, prove_briefly
from trioresil._kernel.backoff import LARGEST, Backoff, as_backoff, constant, endless, exponential, linear

if TYPE_CHECKING:
    from collections.abc import Iterator

JITTERS: list[Any] = ["none", "full", "equal", "decorrelated", "smooth", 0.1, 1.0]
jitters = st.sampled_from(JITTERS)
draws = st.one_of(st.sampled_from([0.0, 0.5, math.nextafter(1.0, 0.0)]), st.floats(0, 1, exclude_max=True))


def first(n: int, backoff: Backoff, *draws: float) -> list[float]:
    return list(islice(backoff.delays(FixedChance(*draws or (0.0,))), n))


# --- the formulas --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draw", "delays"),
    [
        (0.0, [0, 1.377182, 1.460067, 2.865850, 5.717807, 11.430272]),
        (0.5, [0.897405, 1.093004, 2.035748, 4.045979, 8.083632, 16.163663]),
    ],
)
def test_smooth_gives_the_published_vectors(draw: float, delays: list[float]) -> None:
    assert first(6, exponential(1, max=math.inf, jitter="smooth"), draw) == pytest.approx(delays, abs=1e-6)


def test_smooth_scales_with_initial_and_is_bounded_last() -> None:
    delays = first(6, exponential(0.5, max=2, jitter="smooth"), 0.5)
    assert delays == pytest.approx([0.4487025, 0.546502, 1.017874, 2, 2, 2], abs=1e-6)


def test_smooth_measures_each_delay_from_the_one_drawn_before_even_if_that_was_bounded() -> None:
    delays = first(5, exponential(1, max=2, jitter="smooth"), 0.5, 0.5, 0.9, 0.0, 0.5)
    assert delays == pytest.approx([0.897405, 1.093004, 2, 0.383207, 2], abs=1e-6)


def test_smooth_is_never_negative_when_draws_seem_to_go_back() -> None:
    assert first(2, exponential(jitter="smooth"), 1.5, 0.0)[1] == 0


def test_no_jitter_doubles_up_to_max() -> None:
    assert first(7, exponential(1, max=20, jitter="none")) == [1, 2, 4, 8, 16, 20, 20]


def test_factor_is_the_growth() -> None:
    assert first(4, exponential(2, factor=3, max=100, jitter="none")) == [2, 6, 18, 54]
    assert first(4, exponential(2, factor=1, max=100, jitter="none")) == [2, 2, 2, 2]


@pytest.mark.parametrize(("draw", "delays"), [(0.0, [0, 0, 0]), (0.25, [0.25, 0.5, 0.75]), (0.5, [0.5, 1.0, 1.5])])
def test_full_jitter_is_a_share_of_the_whole(draw: float, delays: list[float]) -> None:
    assert first(3, exponential(1, max=3, jitter="full"), draw) == delays


@pytest.mark.parametrize(("draw", "delays"), [(0.0, [0.5, 1, 1.5]), (0.5, [0.75, 1.5, 2.25])])
def test_equal_jitter_keeps_half(draw: float, delays: list[float]) -> None:
    assert first(3, exponential(1, max=3, jitter="equal"), draw) == delays


@pytest.mark.parametrize(("draw", "delays"), [(0.0, [0.75, 1.5, 2.25]), (0.5, [1, 2, 3]), (0.75, [1.125, 2.25, 3.0])])
def test_a_number_spreads_about_the_delay_and_is_bounded_last(draw: float, delays: list[float]) -> None:
    assert first(3, exponential(1, max=3, jitter=0.25), draw) == delays


def test_decorrelated_goes_from_initial_to_three_times_the_delay_before() -> None:
    backoff = exponential(1, max=20, jitter="decorrelated")
    assert first(4, backoff, 0.0) == [1, 1, 1, 1]
    assert first(4, backoff, 0.5) == [2, 3.5, 5.75, 9.125]
    assert first(4, backoff, 0.999)[3] == 20
    assert first(3, exponential(4, max=99, jitter="decorrelated"), 0.0, 0.5, 0.25) == [4, 8, 9]


def test_decorrelated_grows_from_the_bounded_delay() -> None:
    assert first(3, exponential(1, max=2, jitter="decorrelated"), 0.75, 0.75, 0.1) == [2, 2, 1.5]


def test_constant_and_linear_follow_their_formulas() -> None:
    assert first(3, constant(2)) == [2, 2, 2]
    assert first(4, linear(1, 0.5)) == [1, 1.5, 2, 2.5]
    assert first(4, linear(1, 2, max=4)) == [1, 3, 4, 4]
    assert first(2, linear(0, 0)) == [0, 0]


def test_the_defaults_of_exponential_are_a_tenth_doubling_to_ten_with_full_jitter() -> None:
    assert exponential() == exponential(initial=0.1, factor=2.0, max=10.0, jitter="full")


def test_each_schedule_is_fresh() -> None:
    for jitter in JITTERS:
        backoff = exponential(jitter=jitter)
        assert list(islice(backoff.delays(random.Random(3)), 8)) == list(islice(backoff.delays(random.Random(3)), 8))


# --- the bound -----------------------------------------------------------------------------------------------------


SHARES: list[Any] = [
    ("none", 1),
    ("full", 0.875),
    ("equal", 0.9375),
    ("decorrelated", 1),
    ("smooth", 1),
    (0.1, 1),
    (1.0, 1),
]


@pytest.mark.parametrize(("jitter", "share"), SHARES)
@pytest.mark.parametrize("longest", [10.0, LARGEST, math.inf])
def test_attempts_about_which_two_to_the_1024_overflows_give_max(jitter: Any, share: float, longest: float) -> None:
    delays = first(1028, exponential(4, max=longest, jitter=jitter), 0.875)
    assert delays[1023:] == pytest.approx([share * min(longest, LARGEST)] * 5)


@prove
@given(
    initial=st.floats(5e-324, 1e300),
    growth=st.floats(0, 1e300),
    longest=st.one_of(st.floats(0, 1e308), st.just(math.inf)),
    jitter=jitters,
    seed=st.lists(draws, min_size=1, max_size=40),
)
def test_every_delay_is_finite_and_between_zero_and_max(
    initial: float, growth: float, longest: float, jitter: Any, seed: list[float]
) -> None:
    longest = max(initial, longest)
    factor = 2.0 if jitter in ("decorrelated", "smooth") else 1 + growth
    for backoff in (exponential(initial, factor, longest, jitter), linear(initial, growth, longest)):
        for delay in first(60, backoff, *seed):
            assert 0 <= delay <= min(longest, LARGEST)


@pytest.mark.parametrize("jitter", ["none", 0.5])
def test_delays_without_a_bound_stay_at_the_largest_float(jitter: Any) -> None:
    assert first(1500, exponential(1, max=math.inf, jitter=jitter), 0.9)[1100:] == [LARGEST] * 400


def test_a_draw_of_zero_after_the_largest_delay_is_a_number() -> None:
    assert first(2000, exponential(1, max=math.inf, jitter="decorrelated"), *[0.9] * 1999, 0.0)[-1] == 1


def test_linear_without_a_bound_stays_at_the_largest_float() -> None:
    assert first(4, linear(1e308, 1e308)) == [1e308, LARGEST, LARGEST, LARGEST]


# --- the peak ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backoff", "peak"),
    [
        (constant(3), 0),
        (linear(1, 2, max=9), 4),
        (linear(1, 2, max=8), 4),
        (linear(1, 2, max=1), 0),
        (linear(1, 2, max=3), 1),
        (linear(1, 0, max=9), 0),
        (linear(1e308, 1e308), 1),
        (exponential(1, max=16), 4),
        (exponential(1, max=17), 5),
        (exponential(1, max=1), 0),
        (exponential(1, max=2), 1),
        (exponential(1, factor=1, max=2), 0),
        (exponential(1, factor=1.5, max=2, jitter=0.5), 2),
        (exponential(1, max=math.inf), 1024),
        (exponential(0.5, max=math.inf), 1024),
        (exponential(4, max=math.inf), 1022),
        (exponential(1, max=20, jitter="decorrelated"), 5),
        (exponential(1, max=2, jitter="decorrelated"), 0),
        (exponential(1, max=2.1, jitter="decorrelated"), 1),
        (exponential(1, max=1, jitter="smooth"), 1),
        (exponential(1, max=1.1, jitter="smooth"), 2),
        (exponential(1, max=16, jitter="smooth"), 5),
        (exponential(1, max=17, jitter="smooth"), 6),
        (exponential(2, max=2, jitter="smooth"), 1),
        (exponential(1, max=math.inf, jitter="smooth"), 1024),
        (as_backoff("backoff", [3]), 0),
        (as_backoff("backoff", [5, 1, 3]), 0),
        (as_backoff("backoff", [1, 5, 5, 2]), 1),
    ],
)
def test_peak_is_the_first_delay_that_no_later_one_exceeds(backoff: Any, peak: int) -> None:
    assert backoff.peak == peak


@prove_briefly
@given(initial=st.floats(0.01, 10), growth=st.floats(0.05, 5), spread=st.floats(1, 1e6))
def test_peak_agrees_with_walking_the_unjittered_schedule(initial: float, growth: float, spread: float) -> None:
    longest = initial * spread
    for backoff in (linear(initial, longest / 97, longest), exponential(initial, 1 + growth, longest, "none")):
        walked = next(k for k, delay in enumerate(backoff.delays(FixedChance(0.0))) if delay >= longest)
        assert backoff.peak == walked


@prove_briefly
@given(initial=st.floats(0.01, 10), spread=st.floats(1, 1e6))
def test_peak_of_smooth_agrees_with_walking_it_half_way(initial: float, spread: float) -> None:
    backoff = exponential(initial, max=initial * spread, jitter="smooth")
    walked = next(k for k, delay in enumerate(backoff.delays(FixedChance(0.5))) if delay >= initial * spread)
    assert backoff.peak == walked


@prove_briefly
@given(initial=st.floats(0.01, 10), spread=st.floats(1, 1e6))
def test_peak_of_decorrelated_is_where_the_mean_reaches_max(initial: float, spread: float) -> None:
    mean, longest = initial, initial * spread
    for k in count():  # pragma: no branch  # the mean grows
        mean = initial / 2 + 1.5 * mean
        if mean >= longest * (1 + 1e-9):
            assert exponential(initial, max=longest, jitter="decorrelated").peak <= k
            break
        if mean < longest * (1 - 1e-9):
            assert exponential(initial, max=longest, jitter="decorrelated").peak > k


def test_peak_is_cheap_however_slow_the_growth() -> None:
    assert 3e18 < exponential(factor=1 + 2**-52, max=math.inf).peak < 4e18
    assert linear(0, 5e-324).peak > 1e300


# --- arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: constant(-1), ValueError, "delay must be a finite number of seconds >= 0, not -1"),
        (lambda: constant(math.inf), ValueError, "delay must be a finite number of seconds >= 0, not inf"),
        (lambda: constant("2"), TypeError, "delay must be a finite number of seconds >= 0, not '2'"),  # type: ignore[arg-type]
        (lambda: linear(-1, 1), ValueError, "initial must be a finite number of seconds >= 0, not -1"),
        (lambda: linear(math.inf, 1), ValueError, "initial must be a finite number of seconds >= 0, not inf"),
        (lambda: linear(1, -2), ValueError, "step must be a finite number of seconds >= 0, not -2"),
        (lambda: linear(1, math.inf), ValueError, "step must be a finite number of seconds >= 0, not inf"),
        (lambda: linear(3, 1, max=2), ValueError, "max must be a number of seconds >= 3, not 2"),
        (lambda: exponential(0), ValueError, "initial must be a finite number of seconds > 0, not 0"),
        (lambda: exponential(math.inf), ValueError, "initial must be a finite number of seconds > 0, not inf"),
        (lambda: exponential(True), TypeError, "initial must be a finite number of seconds > 0, not True"),
        (lambda: exponential(factor=0.5), ValueError, "factor must be a finite number >= 1, not 0.5"),
        (lambda: exponential(factor=math.inf), ValueError, "factor must be a finite number >= 1, not inf"),
        (lambda: exponential(max=math.nan), ValueError, "max must be a number of seconds >= 0.1, not nan"),
        (lambda: exponential(20), ValueError, "max must be a number of seconds >= 20, not 10.0"),
    ],
)
def test_wrong_numbers_are_refused_by_name_range_and_value(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("jitter", "error"),
    [
        ("Full", ValueError),
        ("", ValueError),
        (0, ValueError),
        (0.0, ValueError),
        (1.0001, ValueError),
        (-0.1, ValueError),
        (math.nan, ValueError),
        (True, TypeError),
        (None, TypeError),
    ],
)
def test_an_unknown_jitter_is_refused_with_the_known_ones(jitter: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        exponential(jitter=jitter)
    assert str(caught.value) == (
        "jitter must be one of 'none', 'full', 'equal', 'decorrelated', 'smooth', "
        f"or a number > 0 and <= 1, not {jitter!r}"
    )


def test_a_whole_number_as_jitter_becomes_a_float() -> None:
    assert exponential(jitter=1).jitter == 1.0
    assert isinstance(exponential(jitter=1).jitter, float)


@pytest.mark.parametrize("jitter", ["decorrelated", "smooth"])
def test_a_factor_that_would_be_ignored_is_refused(jitter: Any) -> None:
    message = f"factor must be left at 2 with jitter {jitter!r}, which has a growth of its own, not 3"
    with pytest.raises(ValueError, match=f"^{message}$"):
        exponential(factor=3, jitter=jitter)
    assert exponential(factor=2, jitter=jitter).jitter == jitter


@pytest.mark.parametrize(
    ("backoff", "text"),
    [
        (constant(2), "constant(2)"),
        (linear(1, 0.5), "linear(1, 0.5, max=inf)"),
        (exponential(), "exponential(initial=0.1, factor=2, max=10, jitter='full')"),
        (exponential(1, jitter=0.1), "exponential(initial=1, factor=2, max=10, jitter=0.1)"),
        (exponential(1, jitter=1), "exponential(initial=1, factor=2, max=10, jitter=1)"),
        (exponential(jitter="smooth"), "exponential(initial=0.1, max=10, jitter='smooth')"),
        (exponential(jitter="decorrelated"), "exponential(initial=0.1, max=10, jitter='decorrelated')"),
        (constant(1234567.5), "constant(1234567.5)"),
        (as_backoff("backoff", (1, 2.5)), "[1, 2.5]"),
    ],
)
def test_repr_is_what_one_would_write(backoff: Backoff, text: str) -> None:
    assert repr(backoff) == text


def test_backoffs_are_frozen_values() -> None:
    assert exponential(1) == exponential(1.0)
    assert hash(linear(1, 2)) == hash(linear(1, 2))
    assert constant(1) != constant(2)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        constant(1).delay = 2  # type: ignore[misc]


@pytest.mark.parametrize("backoff", [constant(1), linear(1, 1), as_backoff("backoff", [1])])
def test_schedules_without_chance_say_that_they_are_exact(backoff: Any) -> None:
    assert backoff.jitter == "none"


# --- what may be given as a backoff --------------------------------------------------------------------------------


class Endless:
    """An iterable without a length, that can be walked again and again."""

    def __init__(self, *values: object) -> None:
        self.values = values

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def __repr__(self) -> str:
        return "Endless()"


class OwnBackoff:
    def delays(self, rng: object) -> Iterator[float]:
        return iter([1.0])


@pytest.mark.parametrize("backoff", [exponential(), OwnBackoff()])
def test_an_object_with_delays_is_a_backoff_as_it_is(backoff: Backoff) -> None:
    assert isinstance(backoff, Backoff)
    assert as_backoff("backoff", backoff) is backoff


@pytest.mark.parametrize("value", [[1, 2.5], (1, 2.5), range(1, 3)])
def test_a_sized_iterable_becomes_a_list_of_floats(value: Any) -> None:
    delays = list(as_backoff("backoff", value).delays(FixedChance(0.0)))
    assert delays == [float(delay) for delay in value]
    assert all(isinstance(delay, float) for delay in delays)


def test_a_list_is_copied() -> None:
    delays = [1.0]
    backoff = as_backoff("backoff", delays)
    delays.append(2.0)
    assert list(backoff.delays(FixedChance(0.0))) == [1.0]


def test_an_iterable_without_a_length_is_walked_anew_each_time() -> None:
    backoff: Any = as_backoff("backoff", Endless(1, 2))
    assert [list(backoff.delays(FixedChance(0.0))) for _ in range(2)] == [[1.0, 2.0]] * 2
    assert backoff.jitter == "none"
    assert repr(backoff) == "Endless()"


def test_values_of_an_iterable_without_a_length_are_checked_as_they_are_drawn() -> None:
    delays = as_backoff("open_for", Endless(1, -2)).delays(FixedChance(0.0))
    assert next(delays) == 1.0
    with pytest.raises(ValueError, match=r"^each delay of open_for must be a finite number of seconds >= 0, not -2$"):
        next(delays)


OTHERWISE = (
    "backoff must be constant(), linear(), exponential(), an object with .delays(rng) or a list of seconds, not "
)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2, "backoff must be a backoff or a list of seconds, not 2: write constant(2)"),
        (0.5, "backoff must be a backoff or a list of seconds, not 0.5: write constant(0.5)"),
        (True, OTHERWISE + "True"),
        ("12", OTHERWISE + "'12'"),
        (b"12", OTHERWISE + "b'12'"),
        ({1: 2}, OTHERWISE + "{1: 2}"),
        ({1}, OTHERWISE + "{1}"),
        (None, OTHERWISE + "None"),
        (OwnBackoff, OTHERWISE + repr(OwnBackoff)),
        (Endless, OTHERWISE + repr(Endless)),
    ],
)
def test_what_is_no_backoff_is_refused_with_what_to_write(value: object, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        as_backoff("backoff", value)
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [iter([1]), (delay for delay in [1]), count(1)])
def test_an_iterator_is_refused_since_it_serves_one_call_only(value: object) -> None:
    with pytest.raises(TypeError) as caught:
        as_backoff("backoff", value)
    assert str(caught.value) == (
        "backoff must be usable more than once, and an iterator is not: "
        f"pass a list of seconds, or constant(), linear() or exponential(), not {value!r}"
    )


@pytest.mark.parametrize("value", [[1, -1], [math.nan], [math.inf], [2, math.inf]])
def test_a_wrong_delay_in_a_list_is_refused(value: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^each delay of backoff must be a finite number of seconds >= 0, not "):
        as_backoff("backoff", value)


@pytest.mark.parametrize("value", [[None], ["1"], [False]])
def test_a_delay_of_the_wrong_type_in_a_list_is_refused(value: list[object]) -> None:
    with pytest.raises(TypeError, match=r"^each delay of backoff must be a finite number of seconds >= 0, not "):
        as_backoff("backoff", value)


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^backoff must have at least one delay, not \[\]$"):
        as_backoff("backoff", [])


# --- endless -------------------------------------------------------------------------------------------------------


def test_a_schedule_that_ends_goes_on_with_its_last_delay() -> None:
    assert list(islice(endless("backoff", iter([3, 1])), 5)) == [3.0, 1.0, 1.0, 1.0, 1.0]


def test_endless_draws_no_further_than_it_is_asked() -> None:
    drawn = count(1)
    assert list(islice(endless("backoff", (float(k) for k in drawn)), 2)) == [1.0, 2.0]
    assert next(drawn) == 3


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf])
def test_endless_refuses_a_wrong_delay_when_it_comes(bad: float) -> None:
    delays = endless("backoff", iter([1, bad]))
    assert next(delays) == 1.0
    with pytest.raises(ValueError, match=rf"^each delay of backoff must be a finite .* >= 0, not {bad}$"):
        next(delays)


def test_endless_refuses_what_is_no_number() -> None:
    with pytest.raises(TypeError, match=r"^each delay of backoff must be a finite .* >= 0, not None$"):
        next(endless("backoff", iter([None])))  # type: ignore[list-item]


def test_endless_refuses_a_schedule_without_delays() -> None:
    with pytest.raises(ValueError, match=r"^backoff must give at least one delay, and gave none$"):
        next(endless("backoff", iter([])))


# --- what jitter is for --------------------------------------------------------------------------------------------


def calls_until_all_have_written(jitter: Any, clients: int = 50) -> int:
    """Simulate clients that must write one row once; a write fails if another came in between. Count the calls."""
    rng = random.Random(7)
    backoff = exponential(5, max=2000, jitter=jitter)
    version, calls = 0, 0
    schedules = [backoff.delays(rng) for _ in range(clients)]
    events: list[tuple[float, int, int]] = []

    def travel(now: float, client: int, seen: int) -> None:
        heapq.heappush(events, (now + max(0.0, rng.normalvariate(10, 2)), client, seen))

    for client in range(clients):
        travel(0.0, client, -1)
    while events:
        now, client, seen = heapq.heappop(events)
        if seen < 0:
            travel(now, client, version)
            continue
        calls += 1
        if seen == version:
            version += 1
        else:
            travel(now + next(schedules[client]), client, -1)
    return calls


def test_full_jitter_needs_fewer_calls_than_none_under_contention() -> None:
    assert calls_until_all_have_written("full") < 0.7 * calls_until_all_have_written("none")
