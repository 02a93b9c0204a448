"""Random scripts, configurations and cancellations against an exact model: what is sent, when, and what comes out.

The model is written from the rules alone and knows nothing of how they are carried out. One task makes call after call to one
origin, so that the model needs no scheduler: what many tasks do to each other is the business of the sweep and of the tests of
limits. All durations are multiples of 1/4 s and all deadlines are not, so that no two things happen in the same instant, but for
those that must. A gate lets one through each microsecond, so instants are compared after rounding to 1/64 s.
"""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

import trioresil
from tests.http._scripted import EDGES, URL, Edge, Queue, answer, fails, options
from tests.kernel._prove import prove

QUARTER, SIXTEENTH = 0.25, 1 / 16
UNMADE = ("ConnectError", "ConnectTimeout", "ProxyError", "PoolTimeout")
BROKEN = ("ReadError", "ReadTimeout", "RemoteProtocolError", "WriteError")
HOPELESS = ("LocalProtocolError", "UnsupportedProtocol")


@attrs.frozen
class Outcome:
    """What the server, or the way to it, does with one attempt."""

    what: int | str
    """A status, or an error's name."""
    takes: float
    hint: float | None
    queued: bool
    """Whether its time goes into the transport's own queue, which says so."""


@attrs.frozen
class Call:
    """One call, and what is said about it."""

    pause: float
    method: str
    key: bool
    idempotent: bool | None
    retry: bool
    breaker: bool
    around: float
    """Seconds until a scope around the call is cancelled, which it can see coming."""
    cancelled: float
    """Seconds until a scope around it is cancelled, which it can't."""


@attrs.frozen
class Case:
    """All of a run."""

    script: tuple[Outcome, ...]
    calls: tuple[Call, ...]
    max_attempts: int
    delay: float
    max_hint: float
    reserve: int
    total: float
    attempt: float
    trip: int
    open_for: float


quarters = st.integers(0, 12).map(lambda n: n * QUARTER)
deadlines = st.just(math.inf) | st.integers(0, 40).map(lambda n: n * QUARTER + SIXTEENTH)
attempt_deadlines = st.just(math.inf) | st.integers(0, 10).map(lambda n: n * QUARTER + 3 * SIXTEENTH)
surprises = st.just(math.inf) | st.integers(0, 40).map(lambda n: n * QUARTER + 2 * SIXTEENTH)
outcomes = st.builds(
    Outcome,
    st.sampled_from([200, 404, 408, 429, 429, 500, 501, 502, 503, 503, 504, *UNMADE, *BROKEN, *HOPELESS]),
    quarters,
    st.none() | st.sampled_from([0, 1, 2, 5]),
    st.booleans(),
)
calls = st.builds(
    Call,
    pause=quarters,
    method=st.sampled_from(["GET", "POST", "PUT"]),
    key=st.booleans(),
    idempotent=st.none() | st.booleans(),
    retry=st.booleans() | st.just(True),
    breaker=st.booleans() | st.just(True),
    around=deadlines,
    cancelled=surprises,
)
cases = st.builds(
    Case,
    script=st.lists(outcomes, min_size=1, max_size=12).map(tuple),
    calls=st.lists(calls, min_size=1, max_size=6).map(tuple),
    max_attempts=st.integers(1, 4),
    delay=st.sampled_from([0.25, 1.0, 2.5]),
    max_hint=st.sampled_from([1.5, 4.0, 60.0]),
    reserve=st.integers(0, 6),
    total=deadlines.map(lambda n: n + SIXTEENTH / 2),
    attempt=attempt_deadlines.map(lambda n: n + SIXTEENTH / 4),
    trip=st.integers(1, 4),
    open_for=st.sampled_from([0.5, 3.0, 20.0]),
)


class Stopped(Exception):
    """In the model: a deadline or a cancellation ends the call; args: who, at which instant."""


class Model:
    """The rules, for one task and one origin."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.script = list(case.script)
        self.now = 0.0
        self.sent: list[float] = []
        self.gate_until = -math.inf
        self.state = "closed"
        self.failures = 0
        self.open_until = -math.inf
        self.withdrawn = 0

    def run(self) -> list[tuple[str, float]]:
        """Return what comes out of each call, and when."""
        told = []
        for call in self.case.calls:
            self.now += call.pause
            told.append((self.call(call), self.now))
        return told

    def call(self, call: Call) -> str:
        ends = {
            "total": self.now + self.case.total,
            "around": self.now + call.around,
            "cancelled": self.now + call.cancelled,
        }
        kept: str | None = None
        for attempt in range(1, self.case.max_attempts + 1):
            using = call.breaker
            try:
                if using and self.state == "open" and self.now < self.open_until:
                    return "CircuitOpenError" if kept is None else kept
                if using and self.state == "open":
                    self.state = "half-open"
                self.wait(self.gate_until, ends)
                outcome = self.attempt(ends)
            except Stopped as stop:
                who, started = stop.args
                if who == "total":  # it stands around the circuit, which sees a cancellation: no verdict
                    return f"TimedOutError {started or kept is not None}"
                return who
            name, verdict, again = self.judge(outcome, call)
            kept = name if not name.endswith(" False") else kept or name
            if using:
                self.verdict(verdict)
            hint = outcome.hint if isinstance(outcome.what, int) and not name.startswith("TimedOut") else None
            if hint and outcome.what == 429:
                self.gate_until = max(self.gate_until, self.now + min(hint, self.max_hint(call)))
            if hint and outcome.what == 503 and using:
                self.open(min(hint, self.max_hint(call)))
            if not call.retry or not again or attempt == self.case.max_attempts:
                return kept
            delay = self.case.delay if hint is None else hint
            if delay > self.case.max_hint and hint is not None:
                return kept
            if self.now + delay >= min(ends["total"], ends["around"]):
                return kept
            if self.withdrawn == self.case.reserve:
                return kept
            self.withdrawn += 1
            try:
                self.wait(self.now + delay, ends)
            except Stopped as stop:
                return f"TimedOutError {kept is not None}" if stop.args[0] == "total" else str(stop.args[0])
        raise AssertionError

    def max_hint(self, call: Call) -> float:
        return self.case.max_hint if call.retry else 60.0

    def wait(self, until: float, ends: dict[str, float]) -> None:
        who = min(ends, key=lambda each: ends[each])
        if ends[who] < until:
            self.now = max(self.now, ends[who])
            raise Stopped(who, False)
        self.now = max(self.now, until)

    def attempt(self, ends: dict[str, float]) -> Outcome:
        outcome = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        everything = {**ends, "attempt": self.now + self.case.attempt}
        until = self.now + outcome.takes
        if not outcome.queued:
            self.sent.append(self.now)
        who = min(everything, key=lambda each: everything[each])
        if everything[who] < until:
            self.now = everything[who]
            if who != "attempt":
                raise Stopped(who, not outcome.queued)
            return Outcome("TimedOutError False" if outcome.queued else "TimedOutError True", 0, None, False)
        self.now = until
        if outcome.queued:
            self.sent.append(self.now)
        return outcome

    def judge(self, outcome: Outcome, call: Call) -> tuple[str, str | None, bool]:
        what = outcome.what
        twice = call.method in ("GET", "PUT") or call.key
        if call.idempotent is not None:
            twice = call.idempotent
        if isinstance(what, int):
            failure = what >= 500 and what != 501
            return str(what), "failure" if failure else "good", what == 429 or (twice and what in (408, 502, 503, 504))
        if what.startswith("TimedOutError"):
            started = what.endswith("True")
            return what, "failure" if started else None, twice or not started
        if what in HOPELESS:
            return what, None, False
        return what, None if what == "PoolTimeout" else "failure", twice or what in UNMADE

    def verdict(self, verdict: str | None) -> None:
        if self.state == "half-open":
            if verdict == "good":
                self.state, self.failures = "closed", 0
            elif verdict == "failure":
                self.state, self.open_until = "open", self.now + self.case.open_for
        elif self.state == "closed" and verdict is not None:
            self.failures = self.failures + 1 if verdict == "failure" else 0
            if self.failures >= self.case.trip:
                self.state, self.open_until, self.failures = "open", self.now + self.case.open_for, 0

    def open(self, seconds: float) -> None:
        """A 503 opens for just so long, whatever its own failure has just done."""
        self.state, self.open_until, self.failures = "open", self.now + seconds, 0


def step_of(outcome: Outcome) -> Any:
    step: Any
    takes = 0.0 if outcome.queued else outcome.takes
    if isinstance(outcome.what, int):
        step = answer(outcome.what, b"body", retry_after=outcome.hint, takes=takes)
    else:
        step = fails(outcome.what, takes)
    return Queue(seconds=outcome.takes, then=step) if outcome.queued else step


async def really(edge: Edge, case: Case) -> tuple[list[tuple[str, float]], list[float], Any]:
    transport = edge.scripted(*map(step_of, case.script))
    budget = trioresil.RetryBudget(ratio=1e-9, min_per_second=case.reserve / 1e6, window=1e6)
    face = edge.face
    breaker = trioresil.CircuitBreaker(
        trip=trioresil.ConsecutiveFailures(case.trip), open_for=case.open_for, on=face.failed, on_result=face.failed
    )
    retry = edge.retry(backoff=[case.delay], max_attempts=case.max_attempts, max_hint=case.max_hint, budget=budget)
    client = edge.client(
        transport,
        retry=retry,
        breaker=lambda _: breaker,
        total_timeout=case.total,
        attempt_timeout=case.attempt,
    )
    told = []
    for call in case.calls:
        await trio.sleep(call.pause)
        told.append((await outcome_of(edge, client, call), trio.current_time()))
        assert transport.in_flight == 0
        assert transport.open == []
        assert breaker.statistics().probes_out == 0
        assert breaker.statistics().inside == 0
    return told, transport.sent_at, breaker


async def outcome_of(edge: Edge, client: Any, call: Call) -> str:
    given: dict[str, Any] = {}
    if call.idempotent is not None:
        given["idempotent"] = call.idempotent
    for switch in ("retry", "breaker"):
        if not getattr(call, switch):
            given[switch] = False
    with trio.move_on_after(call.around) as around, trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_surprise, scope, call.cancelled)
            try:
                response = await client.request(
                    call.method, URL, headers={"Idempotency-Key": "k"} if call.key else {}, extensions=options(**given)
                )
                told = str(response.status_code)
            except edge.face.TimedOutError as error:
                told = f"TimedOutError {error.started is not False}"
            except edge.library.TransportError as error:
                told = type(error).__name__
            nursery.cancel_scope.cancel()
        return told
    return "cancelled" if scope.cancelled_caught else "around" if around.cancelled_caught else "nothing"


async def _surprise(scope: trio.CancelScope, after: float) -> None:
    await trio.sleep(after)
    scope.cancel()


def rounded(instant: float) -> float:
    return round(instant * 64) / 64


@pytest.mark.parametrize("edge", EDGES, ids=[each.name for each in EDGES])
@pytest.mark.slow
def test_everything_happens_as_the_model_says(edge: Edge) -> None:
    @settings(prove, max_examples=300)
    @given(cases)
    def property_(case: Case) -> None:
        model = Model(case)
        expected = model.run()
        told, sent_at, _ = trio.run(really, edge, case, clock=trio.testing.MockClock(autojump_threshold=0))
        assert [what for what, _ in told] == [what for what, _ in expected]
        assert [rounded(at) for _, at in told] == [rounded(at) for _, at in expected]
        assert [rounded(at) for at in sent_at] == [rounded(at) for at in model.sent]

    property_()
