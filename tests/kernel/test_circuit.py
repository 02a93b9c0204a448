"""The circuit: its table as data, and each of its rules alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernel._circuit_model import ModelCounter
from tests.kernel._prove import prove
from trioresil._kernel.circuit import TRANSITIONS, Circuit, CircuitState, Refusal, Signal, Ticket

CLOSED, OPEN, HALF_OPEN, ISOLATED = (
    CircuitState.CLOSED,
    CircuitState.OPEN,
    CircuitState.HALF_OPEN,
    CircuitState.ISOLATED,
)


def make(
    *open_times: float,
    failures: int = 1,
    peak: float = math.inf,
    on_change: Callable[[Signal, CircuitState], object] = lambda signal, before: None,
    **configuration: Any,
) -> Circuit:
    times = open_times or (8.0,)
    settings = {"probes": 1, "successes_to_close": 1, "probe_lease": 64.0, **configuration}
    return Circuit(
        ModelCounter(failures),
        open_time=lambda level: times[min(level, len(times) - 1)],
        peak=peak,
        on_change=on_change,
        **settings,
    )


def enter(circuit: Circuit, now: float) -> Ticket:
    ticket = circuit.admit(now)
    assert isinstance(ticket, Ticket)
    return ticket


def call(circuit: Circuit, now: float, failed: bool | None) -> None:
    circuit.report(enter(circuit, now), now, failed)


def in_state(state: CircuitState, **configuration: Any) -> Circuit:
    """Return a circuit that has come to a state at 8.0, by a call that failed at 0.0."""
    circuit = make(**configuration)
    if state is not CLOSED:
        call(circuit, 0.0, True)
    if state is HALF_OPEN:
        enter(circuit, 8.0)
    return circuit


# --- the table ------------------------------------------------------------------------------------------------------

STATES = (CLOSED, OPEN, HALF_OPEN)


def fail_one(circuit: Circuit) -> None:
    circuit.reset(0.0)
    call(circuit, 8.0, True)


SENDING: dict[Signal, Callable[[Circuit], object]] = {
    Signal.TRIPPED: lambda circuit: circuit.trip(8.0),
    Signal.OPENED: lambda circuit: circuit.open(8.0, 1.0),
    Signal.TIME_OVER: lambda circuit: circuit.admit(8.0),
    Signal.PROBE_FAILED: lambda circuit: circuit.report(next(iter(circuit._probes), Ticket(-1, 8.0)), 8.0, True),
    Signal.PROBES_PASSED: lambda circuit: circuit.report(next(iter(circuit._probes), Ticket(-1, 8.0)), 8.0, False),
    Signal.RESET: lambda circuit: circuit.reset(8.0),
}


def test_the_table_is_the_one_that_is_drawn() -> None:
    drawn = """
        closed    -- a trip rule tripped                       --> open
        closed    -- opened by hand                            --> open
        closed    -- reset by hand                             --> closed
        open      -- opened by hand                            --> open
        open      -- the open time is over and a call arrived  --> half-open
        open      -- reset by hand                             --> closed
        half-open -- opened by hand                            --> open
        half-open -- a probe failed                            --> open
        half-open -- enough probes succeeded                   --> closed
        half-open -- reset by hand                             --> closed
    """
    rows = [line.replace("-->", "--").split(" -- ") for line in drawn.strip().splitlines()]
    table = {
        (CircuitState(before.strip()), Signal(signal.strip())): CircuitState(after.strip())
        for before, signal, after in rows
    }
    assert table == TRANSITIONS


@pytest.mark.parametrize(("state", "signal"), list(itertools.product(STATES, Signal)))
def test_each_signal_in_each_state_does_what_the_table_says_and_nothing_where_it_is_silent(
    state: CircuitState, signal: Signal
) -> None:
    changes: list[tuple[Signal, CircuitState]] = []
    circuit = in_state(state, on_change=lambda signal, before: changes.append((signal, before)))
    before = (circuit.generation, circuit.level, circuit.open_until, len(changes))
    SENDING[signal](circuit)
    if (state, signal) in TRANSITIONS:
        assert circuit.state is TRANSITIONS[state, signal]
        assert changes[-1] == (signal, state)
        assert (circuit.generation, len(changes)) == (before[0] + 1, before[3] + 1)
    else:
        assert circuit.state is state
        assert (circuit.generation, circuit.level, circuit.open_until, len(changes)) == before


def test_from_every_state_every_other_is_reached_and_isolated_is_none_of_them() -> None:
    reached = {(before, after) for (before, _), after in TRANSITIONS.items()}
    for _ in STATES:
        reached |= {(a, d) for (a, b), (c, d) in itertools.product(reached, reached) if b is c}
    assert reached == set(itertools.product(STATES, STATES))


# --- closed ---------------------------------------------------------------------------------------------------------


def test_the_counter_is_told_the_instant_the_verdict_and_the_duration() -> None:
    circuit = make(failures=9)
    ticket = enter(circuit, 4.0)
    circuit.report(ticket, 6.0, True)
    circuit.report(enter(circuit, 6.0), 6.5, False)
    circuit.report(enter(circuit, 6.0), 7.0, None)
    assert isinstance(circuit.counter, ModelCounter)
    assert circuit.counter.seen == [(6.0, True, 2.0), (6.5, False, 0.5)]


def test_a_ticket_that_does_not_count_gives_no_verdict() -> None:
    circuit = make()
    assert circuit.report(Ticket(circuit.generation, 0.0, counts=False), 0.0, True) is False
    assert circuit.state is CLOSED


def test_a_ticket_counts_unless_it_says_so() -> None:
    assert Ticket(0, 0.0).counts is True


# --- open -----------------------------------------------------------------------------------------------------------


def test_it_is_open_until_the_instant_and_not_at_it() -> None:
    circuit = in_state(OPEN)
    just_before = math.nextafter(8.0, 0.0)
    assert circuit.admit(just_before) == Refusal(OPEN, 8.0 - just_before)
    assert circuit.state_at(just_before) is OPEN
    assert circuit.state_at(8.0) is HALF_OPEN
    assert circuit.state is OPEN
    assert isinstance(circuit.admit(8.0), Ticket)
    assert circuit.state is HALF_OPEN


@prove
@given(
    now=st.floats(0, 1e9),
    open_for=st.floats(1e-9, 1e9),
    share=st.floats(0, 1),
)
def test_whoever_waits_the_retry_after_is_let_in(now: float, open_for: float, share: float) -> None:
    circuit = make(open_for)
    call(circuit, now, True)
    later = now + open_for * share
    refusal = circuit.admit(later)
    if isinstance(refusal, Refusal):
        assert refusal.retry_after is not None
        assert isinstance(circuit.admit(later + refusal.retry_after), Ticket)
        assert math.nextafter(refusal.retry_after, 0.0) + later <= circuit.open_until


def test_whoever_hears_of_the_transition_may_open_it_again_and_the_call_is_refused() -> None:
    def object_to(signal: Signal, before: CircuitState) -> None:
        if signal is Signal.TIME_OVER:
            circuit.open(8.0, 4.0)

    circuit = in_state(OPEN, on_change=object_to)
    assert circuit.admit(8.0) == Refusal(OPEN, 4.0)
    assert circuit.probes_out(8.0) == 0


# --- half-open ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probes", [1, 3])
def test_no_more_probes_are_out_than_allowed_and_each_outcome_makes_room(probes: int) -> None:
    circuit = in_state(OPEN, probes=probes, successes_to_close=9)
    tickets = [enter(circuit, 8.0) for _ in range(probes)]
    assert circuit.admit(8.0) == Refusal(HALF_OPEN, None)
    assert circuit.probes_out(8.0) == probes
    for failed in (False, None):
        assert circuit.report(tickets.pop(), 9.0, failed) is True
        tickets.append(enter(circuit, 9.0))
        assert circuit.admit(9.0) == Refusal(HALF_OPEN, None)


def test_the_last_needed_success_closes_and_no_verdict_is_none() -> None:
    circuit = in_state(OPEN, successes_to_close=2)
    for now, failed in ((8.0, None), (8.0, False), (9.0, None)):
        call(circuit, now, failed)
    assert circuit.state is HALF_OPEN
    call(circuit, 10.0, False)
    assert circuit.state is CLOSED
    assert circuit.passing
    assert circuit.ages(12.0)["closed_for"] == 2.0


def test_successes_of_an_earlier_half_open_time_are_forgotten() -> None:
    circuit = in_state(OPEN, successes_to_close=2)
    call(circuit, 8.0, False)
    call(circuit, 8.0, True)
    call(circuit, 16.0, False)
    assert circuit.state is HALF_OPEN


def test_a_slot_comes_back_at_the_end_of_its_lease_and_the_verdict_is_stale_from_then_on() -> None:
    circuit = in_state(OPEN, probe_lease=4.0)
    hung = enter(circuit, 8.0)
    assert circuit.admittable_at(9.0) == 12.0
    assert circuit.admit(math.nextafter(12.0, 0.0)) == Refusal(HALF_OPEN, None)
    assert circuit.probes_out(12.0) == 0
    second = enter(circuit, 12.0)
    assert circuit.report(hung, 12.0, True) is False
    assert circuit.state is HALF_OPEN
    assert circuit.report(second, 13.0, False) is True
    assert circuit.state is CLOSED


@pytest.mark.parametrize("failed", [True, False])
def test_a_late_verdict_is_stale_also_if_nobody_has_taken_the_slot(failed: bool) -> None:
    circuit = in_state(OPEN, probe_lease=4.0)
    hung = enter(circuit, 8.0)
    circuit.report(hung, 12.0, failed)
    assert (circuit.state, circuit.level, circuit.probes_out(12.0)) == (HALF_OPEN, 0, 0)


def test_only_leases_that_have_ended_are_given_away() -> None:
    circuit = in_state(OPEN, probes=2, probe_lease=4.0)
    enter(circuit, 8.0)
    kept = enter(circuit, 10.0)
    assert circuit.admittable_at(11.0) == 12.0
    enter(circuit, 12.0)
    assert circuit.probes_out(12.0) == 2
    assert circuit.admit(12.0) == Refusal(HALF_OPEN, None)
    circuit.report(kept, 13.0, False)
    assert circuit.state is CLOSED


def test_a_late_verdict_of_each_earlier_generation_changes_nothing() -> None:
    circuit = make(probes=2)
    from_closed = enter(circuit, 0.0)
    call(circuit, 0.0, True)
    from_probe = enter(circuit, 8.0)
    call(circuit, 8.0, True)
    circuit.report(from_closed, 9.0, False)
    circuit.report(from_probe, 9.0, False)
    assert (circuit.state, circuit.level, circuit.open_until) == (OPEN, 1, 16.0)
    enter(circuit, 16.0)
    for ticket, failed in ((from_closed, True), (from_probe, True), (from_closed, False), (from_probe, False)):
        circuit.report(ticket, 16.0, failed)
        assert (circuit.state, circuit.probes_out(16.0)) == (HALF_OPEN, 1)


# --- levels ---------------------------------------------------------------------------------------------------------


def flap(circuit: Circuit, now: float, times: int) -> float:
    """Let so many probes fail, each at the first instant at which it may."""
    for _ in range(times):
        now = circuit.admittable_at(now)
        call(circuit, now, True)
    return now


def test_each_reopening_is_a_level_longer_up_to_the_peak() -> None:
    circuit = make(1.0, 2.0, 4.0, 8.0, peak=2)
    call(circuit, 0.0, True)
    lengths = []
    now = 0.0
    for _ in range(5):
        lengths.append((circuit.level, circuit.open_until - now))
        now = flap(circuit, now, 1)
    assert lengths == [(0, 1.0), (1, 2.0), (2, 4.0), (2, 4.0), (2, 4.0)]


@pytest.mark.parametrize(
    ("healthy", "level"), [(0.0, 3), (7.5, 3), (8.0, 2), (15.5, 2), (16.0, 1), (24.0, 0), (900, 0)]
)
def test_a_level_is_taken_back_for_each_length_of_the_last_open_time_in_health(healthy: float, level: int) -> None:
    circuit = make(1.0, 2.0, 4.0, 8.0)
    call(circuit, 0.0, True)
    now = circuit.admittable_at(flap(circuit, 0.0, 3))
    assert circuit.open_for == 8.0
    call(circuit, now, False)
    assert circuit.level == 3
    call(circuit, now + healthy, True)
    assert circuit.level == level
    assert circuit.open_for == [1.0, 2.0, 4.0, 8.0][level]


def test_health_is_counted_from_the_last_closing() -> None:
    circuit = make(1.0, 2.0)
    call(circuit, 0.0, True)
    now = circuit.admittable_at(flap(circuit, 0.0, 1))
    call(circuit, now, False)
    call(circuit, now + 1.5, True)
    call(circuit, now + 3.5, False)
    call(circuit, now + 5.0, True)
    assert circuit.level == 1


def test_open_times_below_a_second_count_as_any_other_and_none_at_all_takes_every_level_back() -> None:
    for last, level in ((0.5, 1), (0.0, 0)):
        circuit = make(4.0, 4.0, last)
        call(circuit, 0.0, True)
        now = circuit.admittable_at(flap(circuit, 0.0, 2))
        call(circuit, now, False)
        call(circuit, now + 0.75, True)
        assert circuit.level == level


def test_an_endless_open_time_takes_no_level_back() -> None:
    circuit = make(1.0, math.inf)
    call(circuit, 0.0, True)
    flap(circuit, 0.0, 1)
    circuit.open_until = 4.0
    call(circuit, 4.0, False)
    call(circuit, 1e9, True)
    assert circuit.level == 1
    assert circuit.admit(1e300) == Refusal(OPEN, math.inf)


def test_opening_by_hand_is_no_level() -> None:
    circuit = make(1.0, 2.0)
    call(circuit, 0.0, True)
    enter(circuit, 1.0)
    circuit.open(1.0, 16.0)
    assert (circuit.level, circuit.open_for) == (0, 1.0)


# --- by hand --------------------------------------------------------------------------------------------------------


def test_opening_for_longer_prolongs_and_for_less_changes_nothing() -> None:
    changes: list[Signal] = []
    circuit = in_state(OPEN, on_change=lambda signal, before: changes.append(signal))
    generation = circuit.generation
    for seconds in (1.0, 6.0):
        circuit.open(2.0, seconds)
        assert (circuit.open_until, circuit.generation, changes) == (8.0, generation, [Signal.TRIPPED])
    circuit.open(2.0, 6.5)
    assert (circuit.open_until, circuit.generation) == (8.5, generation + 1)
    circuit.open(8.5, 1.0)
    assert circuit.open_until == 9.5


def test_a_reset_forgets_counts_levels_and_probes_but_no_isolation() -> None:
    circuit = make(1.0, 2.0, failures=2)
    for _ in range(2):
        call(circuit, 0.0, True)
    call(circuit, 1.0, True)
    probe = enter(circuit, 3.0)
    circuit.isolate(+1)
    circuit.reset(3.0)
    assert (circuit.state_at(3.0), circuit.passing) == (ISOLATED, False)
    circuit.isolate(-1)
    assert (circuit.state_at(3.0), circuit.passing, circuit.level) == (CLOSED, True, 0)
    assert circuit.ages(5.0) == {"level": 0, "open_for": 0.0, "remaining": 0.0, "closed_for": 2.0}
    circuit.report(probe, 3.0, True)
    call(circuit, 3.0, True)
    assert circuit.state is CLOSED
    call(circuit, 4.0, True)
    assert (circuit.state, circuit.open_until) == (OPEN, 5.0)


@pytest.mark.parametrize("state", STATES)
def test_isolation_lies_over_every_state_and_counts(state: CircuitState) -> None:
    circuit = in_state(state)
    circuit.isolate(+1)
    circuit.isolate(+1)
    circuit.isolate(-1)
    assert circuit.state_at(8.0) is ISOLATED
    assert circuit.admit(8.0) == Refusal(ISOLATED, None)
    assert circuit.admittable_at(8.0) == math.inf
    assert not circuit.passing
    assert circuit.state is state
    circuit.isolate(-1)
    assert circuit.passing is (state is CLOSED)
    assert circuit.state_at(7.0) is state


def test_verdicts_go_on_underneath_an_isolation() -> None:
    circuit = make()
    ticket = enter(circuit, 0.0)
    circuit.isolate(+1)
    circuit.report(ticket, 1.0, True)
    assert (circuit.state, circuit.state_at(1.0)) == (OPEN, ISOLATED)
    assert circuit.ages(2.0)["remaining"] == 7.0
    circuit.isolate(-1)
    probe = enter(circuit, 9.0)
    circuit.isolate(+1)
    circuit.report(probe, 9.0, False)
    assert (circuit.state, circuit.passing) == (CLOSED, False)


# --- another clock, another process ---------------------------------------------------------------------------------


def test_a_shift_moves_every_instant_and_lets_the_probes_go() -> None:
    circuit = in_state(OPEN, probe_lease=4.0)
    circuit.shift(1000.0)
    assert circuit.ages(1002.0)["remaining"] == 6.0
    probe = enter(circuit, 1008.0)
    circuit.shift(-500.0)
    assert circuit.probes_out(508.0) == 0
    assert circuit.report(probe, 508.0, True) is False
    call(circuit, 509.0, False)
    circuit.shift(1.0)
    assert circuit.ages(512.0)["closed_for"] == 2.0
    assert isinstance(circuit.counter, ModelCounter)
    assert circuit.counter.shifted == 501.0


def test_ages_are_never_negative() -> None:
    circuit = make()
    circuit.reset(8.0)
    assert circuit.ages(7.0)["closed_for"] == 0.0


@pytest.mark.parametrize(
    ("state", "restored"), [(CLOSED, CLOSED), (OPEN, OPEN), (HALF_OPEN, OPEN)], ids=lambda state: state.value
)
def test_restored_it_is_what_it_was_and_half_open_is_open_with_no_time_left(
    state: CircuitState, restored: CircuitState
) -> None:
    circuit = make(1.0, 2.0, 4.0)
    circuit.restore(state, 100.0, {"level": 1.0, "open_for": 2.0, "remaining": 0.0, "closed_for": 3.0})
    assert (circuit.state, circuit.level, circuit.open_for) == (restored, 1, 2.0)
    assert circuit.passing is (state is CLOSED)
    assert (circuit.open_until, circuit.closed_at) == (100.0, 97.0)
    assert isinstance(circuit.level, int)
    assert isinstance(circuit.admit(100.0), Ticket)
