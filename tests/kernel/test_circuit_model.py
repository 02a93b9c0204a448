"""The circuit against an exact model, over random operations at exact times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.kernel._circuit_model import Model, ModelCounter, Visit
from tests.kernel._prove import prove
from trioresil._kernel.circuit import Circuit, Refusal, Signal, Ticket

REASONS = {
    Signal.TRIPPED: "tripped",
    Signal.OPENED: "opened",
    Signal.TIME_OVER: "time over",
    Signal.PROBE_FAILED: "probe failed",
    Signal.PROBES_PASSED: "probes passed",
    Signal.RESET: "reset",
}

short = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.0, 2.0, 4.0, 16.0])
verdicts = st.sampled_from([True, True, True, False, False, None])
operations = st.one_of(
    st.just(("admit",)),
    st.tuples(st.just("report"), st.integers(0, 5), verdicts),
    st.tuples(st.just("call"), verdicts),
    st.tuples(st.just("wait"), short),
    st.sampled_from([("jump",), ("jump",), ("isolate",), ("release",), ("reset",)]),
    st.tuples(st.just("open"), st.sampled_from([0.5, 2.0, 32.0])),
    st.tuples(st.just("shift"), st.sampled_from([-8.0, 64.0])),
)
scripts = st.lists(operations, min_size=10, max_size=60)
configurations = st.fixed_dictionaries(
    {
        "open_times": st.sampled_from([[4.0], [1.0, 4.0, 16.0], [8.0, 0.5], [2.0, 2.0, math.inf], [0.0, 4.0]]),
        "probes": st.integers(1, 3),
        "needed": st.integers(1, 3),
        "lease": st.sampled_from([0.5, 4.0, math.inf]),
        "failures": st.integers(1, 3),
        "slow": st.sampled_from([2.0, math.inf]),
    }
)


class Pair:
    """A circuit and its model, to which the same things happen."""

    def __init__(self, configuration: dict[str, Any]) -> None:
        self.model = Model(**configuration)
        self.counter = ModelCounter(configuration["failures"], configuration["slow"])
        self.changes: list[tuple[str, str, str]] = []
        open_times: Sequence[float] = configuration["open_times"]
        self.circuit = Circuit(
            self.counter,
            open_time=lambda level: open_times[level],
            peak=len(open_times) - 1,
            probes=configuration["probes"],
            successes_to_close=configuration["needed"],
            probe_lease=configuration["lease"],
            on_change=lambda signal, before: self.changes.append(
                (before.value, REASONS[signal], self.circuit.state.value)
            ),
        )
        self.now = 0.0
        self.inside: list[tuple[Ticket, Visit]] = []

    def admit(self) -> None:
        got, wanted = self.circuit.admit(self.now), self.model.admit(self.now)
        if isinstance(wanted, Visit):
            assert isinstance(got, Ticket)
            assert got.admitted_at == self.now
            self.inside.append((got, wanted))
        else:
            assert isinstance(got, Refusal)
            assert (got.state.value, got.retry_after) == wanted

    def report(self, place: int, failed: bool | None) -> None:
        if not self.inside:
            return
        ticket, visit = self.inside.pop(place % len(self.inside))
        held_slot = visit in self.model.holders(self.now)
        came_back = self.circuit.report(ticket, self.now, failed)
        assert came_back >= held_slot
        self.model.report(visit, self.now, failed)

    def call(self, failed: bool | None) -> None:
        known = len(self.inside)
        self.admit()
        if len(self.inside) > known:
            self.report(known, failed)

    def jump(self) -> None:
        """Go to the next instant at which a call could be let in, so that edges are met exactly."""
        at = self.circuit.admittable_at(self.now)
        self.now = at if at < math.inf else self.now

    def isolate(self) -> None:
        self.circuit.isolate(+1)
        self.model.isolations += 1

    def release(self) -> None:
        if self.model.isolations:
            self.circuit.isolate(-1)
            self.model.isolations -= 1

    def shift(self, seconds: float) -> None:
        self.circuit.shift(seconds)
        self.model.meet_another_run(seconds)
        self.inside.clear()
        self.now += seconds

    def open(self, seconds: float) -> None:
        self.circuit.open(self.now, seconds)
        self.model.open(self.now, seconds)

    def reset(self) -> None:
        self.circuit.reset(self.now)
        self.model.reset(self.now)

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def compare(self) -> None:
        circuit, model, now = self.circuit, self.model, self.now
        assert circuit.state_at(now).value == model.state(now)
        assert circuit.state.value == model.now_in.kind
        assert circuit.passing is (model.state(now) == "closed")
        assert circuit.level == model.level
        assert circuit.generation == len(model.epochs) - 1
        assert circuit.probes_out(now) == len(model.holders(now)) <= model.probes
        assert circuit.admittable_at(now) == model.admittable_at(now)
        assert circuit.isolations == model.isolations
        assert self.changes == model.transitions
        assert self.counter.clears == len(model.transitions)
        closed = model.now_in.kind == "closed"
        assert circuit.ages(now) == {
            "level": model.level,
            "open_for": model.last_open_time,
            "remaining": model.remaining(now),
            "closed_for": now - model.closed_at if closed else 0.0,
        }


@prove
@given(configurations, scripts)
def test_a_circuit_does_what_an_exact_model_does(configuration: dict[str, Any], script: list[tuple[Any, ...]]) -> None:
    pair = Pair(configuration)
    for operation, *arguments in script:
        getattr(pair, operation)(*arguments)
        pair.compare()


@prove
@given(configurations, scripts, st.sampled_from([-64.0, 0.0, 1024.0]))
def test_what_is_restored_goes_on_as_the_original(
    configuration: dict[str, Any], script: list[tuple[Any, ...]], clock_ahead: float
) -> None:
    pair = Pair(configuration)
    for operation, *arguments in script:
        getattr(pair, operation)(*arguments)
    while pair.model.isolations:
        pair.release()
    pair.inside.clear()
    original, twin = pair.circuit, Pair(configuration).circuit
    twin.restore(original.state, pair.now + clock_ahead, original.ages(pair.now))
    for age in (0.0, 0.5, 4.0, 32.0):
        now = pair.now + age
        if original.state_at(pair.now).value != "half-open":  # its probes are gone, so it is one that has just begun
            assert twin.state_at(now + clock_ahead) is original.state_at(now)
            assert twin.admittable_at(now + clock_ahead) == original.admittable_at(now) + clock_ahead
        else:
            assert twin.state_at(now + clock_ahead).value == "half-open"
            assert twin.admittable_at(now + clock_ahead) == now + clock_ahead
    assert twin.passing is original.passing
    if original.passing:
        original.trip(pair.now + 2.0)
        twin.trip(pair.now + 2.0 + clock_ahead)
    assert (twin.level, twin.open_for) == (original.level, original.open_for)
