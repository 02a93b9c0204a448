"""The state machine of a check: its table as data, an exact model on random rows, and the quantiles."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernel._prove import prove
from trioresil._kernel.health import TRANSITIONS, Health, HealthState, Latencies, Result, Signal, what_lacks

UNKNOWN, HEALTHY, DEGRADED, UNHEALTHY = HealthState
QUICK, SLOW, FAILED = Result
RESULTS = {"q": QUICK, "s": SLOW, "f": FAILED}
STATES = {UNKNOWN: "?", HEALTHY: "h", DEGRADED: "d", UNHEALTHY: "u"}


def play(row: str, rise: int = 2, fall: int = 3) -> str:
    """The state after each of these results."""
    health = Health(rise, fall)
    states = ""
    for each in row:
        before = health.state
        changed = health.record(RESULTS[each])
        assert changed == (health.state is not before)
        states += STATES[health.state]
    return states


def test_it_knows_nothing_at_first() -> None:
    health = Health(2, 3)
    assert (health.state, health.consecutive) == (UNKNOWN, 0)


@pytest.mark.parametrize(
    ("row", "states"),
    [
        ("qq", "?h"),
        ("fff", "??u"),
        ("qfqf", "????"),
        ("ffqq", "???h"),
        ("qqff", "?hhh"),
        ("qqfff", "?hhhu"),
        ("qqffqff", "?hhhhhh"),
        ("fffqfqq", "??uuuuh"),
        ("ss", "?d"),
        ("qs", "?d"),
        ("sq", "?h"),
        ("fffqs", "??uud"),
        ("fffsq", "??uuh"),
        ("qqss", "?hhh"),
        ("qqsss", "?hhhd"),
        ("qqssqss", "?hhhhhh"),
        ("qqssfsss", "?hhhhhhd"),  # a failure in between ends the row of slow ones too
        ("ssq", "?dd"),
        ("ssqq", "?ddh"),
        ("ssqsqsqq", "?ddddddh"),
        ("ssff", "?ddd"),
        ("ssfff", "?dddu"),
    ],
)
def test_a_state_is_left_only_for_enough_results_in_a_row(row: str, states: str) -> None:
    assert play(row) == states


def test_with_thresholds_of_one_each_result_decides() -> None:
    assert play("qfsqsfq", rise=1, fall=1) == "hudhduh"


@pytest.mark.parametrize(
    ("row", "unsure"),
    [
        ("q", True),
        ("qq", False),
        ("qqf", True),
        ("qqff", True),
        ("qqfff", False),
        ("qqfffq", True),
        ("qqfffqq", False),
        ("qqfq", True),
        ("qqfqq", False),
        ("qqs", True),
        ("qqss", True),
        ("qqsss", False),
        ("qqsssq", True),
        ("qqsssqq", False),
        ("ss", False),
        ("f", True),
        ("fff", False),
    ],
)
def test_it_is_unsure_while_the_latest_row_is_short_or_speaks_against_the_state(row: str, unsure: bool) -> None:
    health = Health(2, 3)
    for each in row:
        health.record(RESULTS[each])
    assert health.is_unsure is unsure


rows = st.lists(st.sampled_from("qqsff"), max_size=60).map("".join)
thresholds = st.integers(1, 4)


def trailing(row: str, kinds: str) -> int:
    return len(list(itertools.takewhile(lambda each: each in kinds, reversed(row))))


def expected(row: str, state: HealthState, rise: int, fall: int) -> HealthState:
    """Say in words of whole rows what the machine says one by one: the state after a row, from the state before its last."""
    last = row[-1]
    if trailing(row, "f") >= fall:
        return UNHEALTHY
    if last == "f":
        return state
    if not state.is_healthy:
        grade = DEGRADED if last == "s" else HEALTHY
        return grade if trailing(row, "qs") >= rise else state
    if trailing(row, "s") >= fall:
        return DEGRADED
    if trailing(row, "q") >= rise:
        return HEALTHY
    return state


@prove
@given(rows, thresholds, thresholds)
def test_the_machine_is_its_model(row: str, rise: int, fall: int) -> None:
    health = Health(rise, fall)
    state = UNKNOWN
    for end in range(1, len(row) + 1):
        seen = row[:end]
        state = expected(seen, state, rise, fall)
        health.record(RESULTS[seen[-1]])
        assert health.state is state
        passed = seen[-1] != "f"
        assert health.consecutive == trailing(seen, "qs" if passed else "f")
        for_state = {"q": HEALTHY, "s": DEGRADED, "f": UNHEALTHY}[seen[-1]]
        long_enough = health.consecutive >= (rise if passed else fall)
        assert health.is_unsure == (not (long_enough and for_state is state))


def test_every_entry_of_the_table_leads_somewhere_else_and_nothing_leads_back_to_unknown() -> None:
    assert all(state is not target for (state, _), target in TRANSITIONS.items())
    assert UNKNOWN not in TRANSITIONS.values()
    assert {signal for _, signal in TRANSITIONS} == set(Signal)
    assert {state for state, _ in TRANSITIONS} == set(HealthState)


def test_healthy_and_degraded_count_as_healthy() -> None:
    assert [state.is_healthy for state in (UNKNOWN, HEALTHY, DEGRADED, UNHEALTHY)] == [False, True, True, False]


# --- latencies -------------------------------------------------------------------------------------------------------


def test_there_is_no_latency_before_the_first() -> None:
    latencies = Latencies(3)
    assert latencies.last is None
    assert latencies.quantiles(0.5, 0.99) == [None, None]


def test_only_the_last_latencies_count() -> None:
    latencies = Latencies(3)
    for seconds in (9.0, 1.0, 3.0, 2.0):
        latencies.record(seconds)
    assert latencies.last == 2.0
    assert latencies.quantiles(0.5, 0.99, 1) == [2.0, 3.0, 3.0]


@prove
@given(st.lists(st.floats(0, 100), min_size=1, max_size=120), st.sampled_from([0.01, 0.25, 0.5, 0.75, 0.99, 1.0]))
def test_a_quantile_is_the_least_latency_that_so_great_a_share_did_not_exceed(
    seconds: list[float], share: float
) -> None:
    latencies = Latencies(100)
    for each in seconds:
        latencies.record(each)
    window = seconds[-100:]
    [quantile] = latencies.quantiles(share)
    enough = [each for each in window if sum(other <= each for other in window) >= math.ceil(share * len(window))]
    assert quantile == min(enough)


# --- the whole -------------------------------------------------------------------------------------------------------

NONE: dict[str, int] = {}


@pytest.mark.parametrize(
    ("members", "need", "healthy"),
    [
        ([], NONE, True),
        ([(True, False, None)], NONE, True),
        ([(True, False, None), (False, False, None)], NONE, False),
        ([(True, True, None), (False, False, None)], NONE, True),
        ([(False, True, None), (True, True, None)], NONE, False),
        ([(True, False, "a"), (False, False, "a")], {"a": 1}, True),
        ([(True, False, "a"), (False, False, "a")], {"a": 2}, False),
        ([(True, False, "a"), (True, False, "a"), (True, False, "a")], {"a": 2}, True),
        ([(True, False, "a"), (True, False, "b")], {"a": 1, "b": 1}, True),
        ([(True, False, "a"), (False, False, "b")], {"a": 1, "b": 1}, False),
        ([(True, False, "a"), (False, True, None)], {"a": 1}, False),
        ([(True, False, "a"), (False, False, None)], {"a": 1}, True),
        ([(True, False, "a"), (False, False, "c")], {"a": 1}, True),
        ([(True, False, "a"), (False, False, "c")], NONE, False),
        ([], {"a": 1}, False),
        ([(True, True, "a")], {"a": 1}, True),
    ],
)
def test_the_whole_is_healthy_if_what_is_critical_and_what_is_needed_is(
    members: list[tuple[bool, bool, str | None]], need: dict[str, int], healthy: bool
) -> None:
    assert (not what_lacks((("name", *member) for member in members), need)) is healthy


def test_what_the_whole_lacks_is_named() -> None:
    members = [("a", False, True, None), ("b", True, True, "x"), ("c", False, False, "x"), ("d", False, False, None)]
    assert what_lacks(members, {"x": 2, "y": 1}) == [
        "a is not",
        "of the group 'x' 1 of 2 are, and 2 must be",
        "of the group 'y' 0 of 0 are, and 1 must be",
    ]
    assert what_lacks([("c", False, False, "x"), ("d", True, False, None)], {}) == ["c is not"]
