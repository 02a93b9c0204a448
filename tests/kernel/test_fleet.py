"""The circuit of a fleet: that of one process, seen from a server."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioresil import ConsecutiveFailures, FailuresOf
from trioresil._kernel.circuit import Circuit, Ticket
from trioresil._kernel.fleet import CLOSED, HALF_OPEN, OPEN, SLICES, Fleet, FleetRules, SharedRule

SECOND = 1_000_000
ROW = SharedRule("row", 3, 0, 0)
OF = SharedRule("of", 2, 4, 0)
RATIO = SharedRule("ratio", 0.5, 10 * SECOND, 4)
START = 1_700_000_000 * SECOND


def rules(*trip: SharedRule, probes: int = 1, needed: int = 1, open_times: Sequence[int] = (1, 2, 4)) -> FleetRules:
    return FleetRules(probes, needed, 5 * SECOND, [each * SECOND for each in open_times], trip or (ROW,))


def open_fleet(config: FleetRules) -> Fleet:
    fleet = Fleet.begin(config, START)
    fleet.report(config, fleet.epoch, [(1, 3)])
    assert fleet.state == OPEN
    return fleet


def later(fleet: Fleet, config: FleetRules, duration: float) -> Fleet:
    fleet.look(config, fleet.seen + round(duration * SECOND))
    return fleet


# --- against the circuit of one process ---------------------------------------------------------------------------------------

STEPS = st.one_of(
    st.tuples(st.just("wait"), st.integers(1, 6)),
    st.tuples(st.just("good"), st.integers(1, 3)),
    st.tuples(st.just("bad"), st.integers(1, 3)),
    st.tuples(st.just("admit"), st.just(0)),
    st.tuples(st.sampled_from(["failed", "passed", "none"]), st.integers(0, 2)),
    st.tuples(st.just("open"), st.integers(1, 9)),
    st.tuples(st.just("reset"), st.just(0)),
)


@given(steps=st.lists(STEPS, max_size=60), probes=st.integers(1, 2), needed=st.integers(1, 3))
def test_it_does_what_the_circuit_of_one_process_does(steps: list[tuple[str, int]], probes: int, needed: int) -> None:
    config = rules(ROW, OF, probes=probes, needed=needed)
    fleet, now = Fleet.begin(config, START), 0
    circuit = Circuit(
        (ConsecutiveFailures(3) | FailuresOf(2, of=4)).counter(),
        open_time=lambda level: 2.0**level,
        peak=2,
        on_change=lambda *_: None,
        probes=probes,
        successes_to_close=needed,
        probe_lease=5,
    )
    out: list[tuple[str, Ticket]] = []
    for number, (step, n) in enumerate(steps):
        if step == "wait":
            now += n
            fleet.look(config, START + now * SECOND)
        elif step in ("good", "bad"):
            epoch = fleet.epoch
            if fleet.state == CLOSED:
                for ticket in [circuit.admit(now) for _ in range(n)]:
                    assert isinstance(ticket, Ticket)
                    circuit.report(ticket, now, step == "bad")
            fleet.report(config, epoch, [(3 if step == "bad" else 0, n)])
        elif step == "admit" and fleet.state != CLOSED:
            mine = circuit.admit(now)
            assert fleet.admit(config, str(number)) is isinstance(mine, Ticket)
            if isinstance(mine, Ticket):
                out.append((str(number), mine))
        elif step in ("failed", "passed", "none") and out:
            who, ticket = out.pop(n % len(out))
            verdict = {"failed": True, "passed": False, "none": None}[step]
            circuit.report(ticket, now, verdict)
            fleet.judge(config, who, verdict)
        elif step == "open":
            circuit.open(now, n)
            fleet.open_by_hand(config, n * SECOND)
        elif step == "reset":
            circuit.reset(now)
            fleet.reset(config)
        assert fleet.state == circuit.state.value
        assert fleet.level == circuit.level
        if fleet.state == OPEN:
            assert fleet.remaining(config) == max(0, circuit.open_until - now) * SECOND
        if fleet.state == HALF_OPEN:
            assert len(fleet.probes) == circuit.probes_out(now)


@given(
    runs=st.lists(st.tuples(st.booleans(), st.integers(1, 5), st.integers(0, 3)), max_size=20),
    rule=st.sampled_from(
        [ROW, OF, RATIO, SharedRule("ratio", 0.4, 10 * SECOND, 1), SharedRule("ratio", 1.0, SECOND, 7)]
    ),
)
def test_a_batch_trips_if_its_calls_one_by_one_would(runs: list[tuple[bool, int, int]], rule: SharedRule) -> None:
    batched = single = rule.empty()
    now = START
    for bad, n, wait in runs:
        now += wait * SECOND
        batched, trips = rule.count(batched, now, bad, n)
        tripped = False
        for _ in range(n):
            single, each = rule.count(single, now, bad, 1)
            tripped |= each
        assert batched == single
        assert trips is tripped
        if trips:
            return


# --- what only a server sees --------------------------------------------------------------------------------------------------


def test_epochs_never_fall_behind_the_clock_of_the_server() -> None:
    config = rules()
    fleet = Fleet.begin(config, START)
    assert fleet.epoch == START
    later(fleet, config, 1).reset(config)
    assert fleet.epoch == START + SECOND  # so an epoch of a state that was lost is an older one
    fleet.reset(config)
    assert fleet.epoch == START + SECOND + 1
    later(fleet, config, -100).reset(config)
    assert fleet.epoch == START + SECOND + 2


def test_a_report_of_another_epoch_counts_nothing() -> None:
    config = rules()
    fleet = Fleet.begin(config, START)
    for epoch in (fleet.epoch - 1, fleet.epoch + 1):
        fleet.report(config, epoch, [(1, 3)])
    assert fleet.counters == [0]
    fleet.report(config, fleet.epoch, [(1, 2)])
    assert fleet.counters == [2]


def test_what_follows_the_trip_in_a_batch_is_dropped() -> None:
    config = rules()
    fleet = Fleet.begin(config, START)
    fleet.report(config, fleet.epoch, [(1, 3), (1, 3), (1, 3)])
    assert (fleet.state, fleet.counters, fleet.level) == (OPEN, [0], 0)


def test_each_rule_has_its_own_bit() -> None:
    config = rules(ROW, SharedRule("row", 2, 0, 0))
    fleet = Fleet.begin(config, START)
    fleet.report(config, fleet.epoch, [(1, 2)])
    assert fleet.counters == [2, 0]
    fleet.report(config, fleet.epoch, [(2, 2)])
    assert fleet.state == OPEN


def test_nobody_is_let_in_before_the_open_time_is_over() -> None:
    config = rules()
    fleet = open_fleet(config)
    later(fleet, config, 1 - 1e-6)
    assert not fleet.admit(config, "a")
    assert fleet.state == OPEN
    later(fleet, config, 1e-6)
    assert fleet.admit(config, "a")


def test_it_stays_open_longer_each_time_and_forgets_that_as_it_stays_well() -> None:
    config = rules()
    fleet = open_fleet(config)
    for level, open_for in ((1, 2), (2, 4), (2, 4)):
        later(fleet, config, 10).admit(config, "a")
        fleet.judge(config, "a", True)
        assert (fleet.level, fleet.remaining(config)) == (level, open_for * SECOND)
    later(fleet, config, 4).admit(config, "a")
    fleet.judge(config, "a", False)
    later(fleet, config, 4)  # once the last open time
    fleet.report(config, fleet.epoch, [(1, 3)])
    assert (fleet.level, fleet.remaining(config)) == (1, 2 * SECOND)


def test_successes_of_an_earlier_half_open_time_are_forgotten() -> None:
    config = rules(needed=2)
    fleet = open_fleet(config)
    later(fleet, config, 1).admit(config, "a")
    fleet.judge(config, "a", False)
    fleet.admit(config, "b")
    fleet.judge(config, "b", True)
    later(fleet, config, 2).admit(config, "c")
    fleet.judge(config, "c", False)
    assert fleet.state == HALF_OPEN


def test_a_probe_has_its_slot_until_its_lease_ends_and_its_verdict_says_nothing_then() -> None:
    config = rules()
    fleet = open_fleet(config)
    later(fleet, config, 1).admit(config, "a")
    later(fleet, config, 5 - 1e-6)
    assert fleet.remaining(config) == 1
    assert not fleet.admit(config, "b")
    version = fleet.version
    later(fleet, config, 1e-6)
    assert fleet.version > version
    fleet.judge(config, "a", True)
    assert fleet.state == HALF_OPEN
    assert fleet.admit(config, "b")


@pytest.mark.parametrize("back", [3, 3600])
def test_a_clock_that_is_set_back_takes_all_instants_along(back: int) -> None:
    config = rules(RATIO)
    fleet = Fleet.begin(config, START)
    fleet.report(config, fleet.epoch, [(1, 3)])
    later(fleet, config, -back)
    assert fleet.counters == [{fleet.seen // RATIO.width: (3, 3)}]
    later(fleet, config, 9)
    fleet.report(config, fleet.epoch, [(1, 1)])
    assert fleet.state == OPEN
    later(fleet, config, -back)
    assert fleet.remaining(config) == SECOND
    later(fleet, config, 1).admit(config, "a")
    later(fleet, config, -back)
    assert fleet.remaining(config) == 5 * SECOND


def test_a_slice_is_forgotten_when_it_leaves_the_window() -> None:
    counter, _ = RATIO.count({}, START, True, 1)
    counter, _ = RATIO.count(counter, START + (SLICES - 1) * RATIO.width, False, 1)
    assert isinstance(counter, dict)
    assert len(counter) == 2
    counter, _ = RATIO.count(counter, START + SLICES * RATIO.width, False, 1)
    assert isinstance(counter, dict)
    assert START // RATIO.width not in counter


def test_the_first_call_that_completes_the_least_number_is_asked() -> None:
    counter, trips = RATIO.count({}, START, True, 2)
    assert not trips
    assert RATIO.count(counter, START, False, 5)[1]  # two of four, before it is two of seven
    assert not RATIO.count(counter, START, False, 1)[1]
