"""The breaker against the exact model of its circuit: random calls in one run, each ending at an instant of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

import trioresil
from tests.kernel._circuit_model import Model, ModelCounter, Visit
from trioresil import CircuitBreaker, CircuitIsolatedError, CircuitOpenError
from trioresil.testing import Recorder

UNIT = 1 / 4096  # makes each instant of an end differ from all others

prove = settings(derandomize=True, database=None, deadline=None, max_examples=300)


@attrs.frozen
class ModelRule(trioresil.abc.TripRule):
    """Trips as the model does."""

    failures: int
    slow: float

    def counter(self) -> ModelCounter:
        return ModelCounter(self.failures, self.slow)


@attrs.frozen
class ClocklessRule(ModelRule):
    """The same, in a breaker that reads no clock while it is closed."""

    uses_clock = False


class NotFoundError(Exception):
    """A good verdict: `on` doesn't match it."""


@attrs.frozen
class Lists:
    """Open times as listed, over again for each level; a Backoff of which only the listed levels exist."""

    seconds: tuple[float, ...]
    jitter = "none"

    @property
    def peak(self) -> int:
        return len(self.seconds) - 1

    def delays(self, rng: Any, /) -> Iterator[float]:
        return iter(self.seconds)


lengths = st.sampled_from([0.0, 0.25, 1.0, 1.0, 2.0, 8.0])
outcomes = st.sampled_from(
    ["fails", "fails", "fails", "fine", "fine", "not found", "cancelled", "rejected", "bad result"]
)
forms = st.sampled_from(["call", "decorator", "block", "admit", "by hand"])
uses = st.tuples(st.just("use"), forms, outcomes, lengths)
crowds = st.tuples(st.just("many"), forms, outcomes, st.integers(2, 4))
waits = st.one_of(st.just(("wait_admittable",)), st.tuples(st.just("wait"), lengths))
by_hand = st.sampled_from(
    [
        ("isolate",),
        ("release",),
        ("release",),
        ("reset",),
        ("open", 0.5),
        ("open", 4.0),
        ("enforce", False),
        ("enforce", True),
    ]
)
operations = st.integers(0, 9).flatmap(
    lambda dice: [uses, uses, uses, crowds, crowds, waits, waits, waits, waits, by_hand][dice]
)
configurations = st.fixed_dictionaries(
    {
        "open_times": st.sampled_from([(4.0,), (1.0, 4.0, 16.0), (8.0, 0.5)]),
        "probes": st.integers(1, 3),
        "needed": st.integers(1, 3),
        "lease": st.sampled_from([1.5, math.inf]),
        "failures": st.integers(1, 3),
        "slow": st.sampled_from([4.0, math.inf]),
    }
)


class Interpreter:
    """Does everything twice: to a breaker, by tasks; and to the model, in the same step."""

    def __init__(self, configuration: dict[str, Any], nursery: trio.Nursery) -> None:
        self.model = Model(**configuration)
        clockless = configuration["slow"] == math.inf
        rule = (ClocklessRule if clockless else ModelRule)(configuration["failures"], configuration["slow"])
        self.breaker = CircuitBreaker(
            trip=rule,
            open_for=Lists(configuration["open_times"]),
            probes=configuration["probes"],
            successes_to_close=configuration["needed"],
            probe_lease=configuration["lease"],
            on=OSError,
            on_result=lambda result: result == "bad",
        )
        self.nursery = nursery
        self.tokens: list[Any] = []
        self.calls = 0
        self.inside = 0
        self.rejected = 0

    # -- what tasks do

    async def body(self, visit: Visit | None, outcome: str, seconds: float) -> str:
        """Be the guarded function; tell the model of the end in the step in which the breaker will hear of it."""
        self.inside += 1
        verdict: bool | None = None
        try:
            await trio.sleep(seconds)
            verdict = {"fails": True, "fine": False, "not found": False, "bad result": True}.get(outcome)
            if outcome == "fails":
                raise OSError
            if outcome == "not found":
                raise NotFoundError
            if outcome == "cancelled":
                await trio.sleep_forever()
            if outcome == "rejected":
                raise trioresil.RateLimitedError("inner")
            return "bad" if outcome == "bad result" else "good"
        finally:
            self.inside -= 1
            if visit is not None:
                self.model.report(visit, trio.current_time(), verdict)

    def enter(self) -> Visit | None:
        """Ask the model; called in the step in which the breaker has let the call in."""
        admitted = self.model.admit(trio.current_time())
        assert isinstance(admitted, Visit) or not self.breaker.enforce
        return admitted if isinstance(admitted, Visit) else None

    async def use(self, form: str, outcome: str, seconds: float) -> None:
        breaker = self.breaker

        async def fn() -> str:
            return await self.body(self.enter(), outcome, seconds)

        if form == "call":
            await breaker.call(fn)
        elif form == "decorator":
            await breaker(fn)()
        elif form == "block":
            async with breaker:
                await fn()
        elif form == "admit":
            with breaker.admit():
                await fn()
        else:
            with breaker.admit() as admission:
                try:
                    result = await fn()
                except OSError as exc:
                    admission.fail(exc)
                else:
                    if result == "bad":
                        admission.fail()

    async def one(self, form: str, outcome: str, seconds: float) -> None:
        # What user code raises inside of `call` has started, and a block can't see results: other verdicts than the body says.
        if outcome == "rejected" and form in ("call", "decorator"):
            outcome = "cancelled"
        if outcome == "bad result" and form in ("block", "admit"):
            outcome = "fine"
        now, state = trio.current_time(), self.model.state(trio.current_time())
        refusal = None
        if self.breaker.enforce and not self.model.would_admit(now):
            refusal = (state, self.model.remaining(now) if state == "open" else None)
        found: tuple[str, float | None] | None = None
        with trio.move_on_after(seconds + UNIT / 2) if outcome == "cancelled" else trio.CancelScope():
            try:
                await self.use(form, outcome, seconds)
            except CircuitOpenError as exc:
                found = (
                    state if isinstance(exc, CircuitIsolatedError) is (state == "isolated") else "?",
                    exc.retry_after,
                )
                self.rejected += 1
            except (OSError, NotFoundError, trioresil.RateLimitedError):
                pass
        assert found == refusal

    # -- operations

    async def do(self, operation: str, *arguments: Any) -> None:
        breaker, model, now = self.breaker, self.model, trio.current_time()
        match operation, arguments:
            case "use", (form, outcome, seconds):
                self.calls += 1
                self.nursery.start_soon(self.one, form, outcome, seconds + self.calls * UNIT)
            case "many", (form, outcome, number):
                for _ in range(number):
                    self.calls += 1
                    self.nursery.start_soon(self.one, form, outcome, self.calls * UNIT)
            case "wait", (seconds,):
                await trio.sleep(seconds)
            case "wait_admittable", ():
                await self.wait_admittable()
            case "isolate", ():
                self.tokens.append(breaker.isolate())
                model.isolations += 1
            case "release", () if self.tokens:
                self.tokens.pop().release()
                model.isolations -= 1
            case "reset", ():
                breaker.reset()
                model.reset(now)
            case "open", (seconds,):
                breaker.open(seconds)
                model.open(now, seconds)
            case "enforce", (value,):
                breaker.enforce = value
        await trio.testing.wait_all_tasks_blocked()

    async def wait_admittable(self) -> None:
        with trio.move_on_after(64) as scope:
            await self.breaker.wait_admittable()
        if not self.breaker.enforce:
            return
        assert self.model.would_admit(trio.current_time()) is not scope.cancelled_caught

    def compare(self) -> None:
        now, statistics = trio.current_time(), self.breaker.statistics()
        model = self.model
        assert statistics.state.value == self.breaker.state.value == model.state(now)
        assert statistics.level == model.level
        assert statistics.remaining == model.remaining(now)
        assert statistics.probes_out == len(model.holders(now)) <= model.probes
        assert statistics.isolations == model.isolations
        assert statistics.opened == sum(after == "open" for _, _, after in model.transitions)
        assert statistics.inside == self.inside
        assert statistics.rejected == self.rejected


def told(recorder: Recorder) -> list[str]:
    kinds = (trioresil.CircuitOpened, trioresil.CircuitHalfOpened, trioresil.CircuitClosed)
    return [type(event).__name__ for event in recorder.events if isinstance(event, kinds)]


def to_be_told(model: Model) -> list[str]:
    names = {"open": "CircuitOpened", "half-open": "CircuitHalfOpened", "closed": "CircuitClosed"}
    return [names[after] for before, _, after in model.transitions if (before, after) != ("closed", "closed")]


@pytest.mark.slow
@prove
@given(configurations, st.lists(operations, min_size=10, max_size=50))
def test_a_breaker_does_what_the_model_does_whatever_its_callers_do(
    configuration: dict[str, Any], script: list[tuple[Any, ...]]
) -> None:
    async def main() -> None:
        recorder = Recorder()
        with trioresil.instrument(recorder):
            async with trio.open_nursery() as nursery:
                interpreter = Interpreter(configuration, nursery)
                for operation in script:
                    await interpreter.do(*operation)
                    interpreter.compare()
            interpreter.compare()
        assert interpreter.inside == 0
        assert told(recorder) == to_be_told(interpreter.model)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
