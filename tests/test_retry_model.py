"""Random scripts and configurations against an exact model: what comes out, at which instant, after which attempts, told how.

All delays are multiples of 1/4 s, so that every instant is an exact float. The model is written from the rules alone:

- attempts are made until one gives no failure, or the count, the hint's bound, the deadline or the budget end it, in this
  order; an error that doesn't match ends it before any of these;
- what comes out is the last outcome of an attempt that started, or, if none did, the last outcome.
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
from tests._scripts import FORMS, After, Form, Refuse, Script
from tests.kernel._prove import FixedChance, prove
from trioresil.testing import Recorder

QUARTER = 0.25


class Passing(Exception):
    """`on` matches it."""


class Lasting(Exception):
    """`on` doesn't match it."""


@attrs.frozen
class Outcome:
    """What one attempt does."""

    kind: str  # "value", "poor", "passing", "lasting", "refused", "refused for good", "group", "mixed group"
    takes: float
    hint: float | None

    @property
    def fails(self) -> bool:
        return self.kind != "value"

    @property
    def matches(self) -> bool:
        return self.kind in ("poor", "passing", "refused", "group")

    @property
    def starts(self) -> bool:
        return not self.kind.startswith("refused")


KINDS = [
    "passing",
    "passing",
    "refused",
    "poor",
    "group",
    "lasting",
    "passing",
    "refused for good",
    "mixed group",
    "value",
]
quarters = st.integers(0, 12).map(lambda n: n * QUARTER)
outcomes = st.builds(Outcome, st.sampled_from(KINDS), quarters, st.none() | quarters)


@attrs.frozen
class Case:
    """A script and a configuration."""

    script: tuple[Outcome, ...]
    max_attempts: float
    delays: tuple[float, ...]
    max_hint: float
    chance: float | None  # None: a backoff without jitter
    own_hint: bool  # whether delay_hint is given, or rejections say so themselves
    deadline: float
    retries_paid: int | None  # by the budget; None: no budget


cases = st.builds(
    Case,
    script=st.lists(outcomes, min_size=2, max_size=7).map(tuple),
    max_attempts=st.sampled_from([5, math.inf, 4, 3, 2, 1]),
    delays=st.lists(quarters, min_size=1, max_size=4).map(tuple),
    max_hint=st.sampled_from([2.0, math.inf, 1.0, 0.0]),
    chance=st.sampled_from([None, None, 0.0, 0.5]),
    own_hint=st.booleans(),
    deadline=st.sampled_from([1.0, 2.0, 3.0, 5.0, math.inf, math.inf]),
    retries_paid=st.sampled_from([None, None, 0, 1, 2]),
)


@attrs.frozen
class Told:
    """What can be seen of a call."""

    began_at: list[float]
    ended_at: float
    comes_from: int  # number of the attempt whose outcome comes out; 0: a cancellation
    reason: str | None
    waited: float
    noted: list[int]  # numbers of the attempts that the note lists; [] without a note


def predict(case: Case) -> Told:
    now, waited, kept, reason = 0.0, 0.0, 0, None
    began_at: list[float] = []
    failures: list[int] = []
    for number, outcome in enumerate(endless(case.script), 1):
        began_at.append(now)
        if now + outcome.takes >= case.deadline and outcome.takes > 0:
            return Told(began_at, case.deadline, 0, None, 0, [])
        now += outcome.takes
        if not outcome.fails:
            return Told(began_at, now, number, None, 0, [])
        if outcome.kind != "poor":
            failures.append(number)
        if outcome.starts:
            kept = number
        if not outcome.matches:
            reason = "unmatched" if number > 1 else None
            break
        wait = case.delays[min(number, len(case.delays)) - 1]
        hint = outcome.hint if case.own_hint or outcome.kind == "refused" else None
        if number >= case.max_attempts:
            reason = "attempts"
        elif hint is not None and hint > case.max_hint:
            reason = "hint"
        else:
            if hint is not None:
                wait = hint if case.chance is None else hint * (1 + case.chance / 2)
            if now + wait >= case.deadline:
                reason = "deadline"
            elif case.retries_paid is not None and number > case.retries_paid:
                reason = "budget"
        if reason:
            break
        now += wait
        waited += wait
    comes_from = kept or number
    noted = [each for each in failures if each != comes_from][-10:]
    return Told(began_at, now, comes_from, reason, waited, noted if reason and comes_from in failures else [])


def endless(script: tuple[Outcome, ...]) -> Any:
    yield from script
    yield from [attrs.evolve(script[-1], kind="value")]  # so that no case goes on for ever


class Unsure:
    """The same delays, from an object that doesn't say whether they are jittered."""

    def __init__(self, delays: tuple[float, ...]) -> None:
        self._delays = delays

    def delays(self, rng: Any) -> Any:
        return iter(self._delays)


def build(case: Case) -> tuple[trioresil.Retry, Script, list[Any]]:
    budget = None
    if case.retries_paid is not None:
        budget = trioresil.RetryBudget(ratio=1e-9, min_per_second=case.retries_paid / 1024, window=1024)
    produced: list[Any] = []
    hints: dict[int, float | None] = {}
    steps = []
    for number, outcome in enumerate(endless(case.script), 1):
        step: Any
        match outcome.kind:
            case "value" | "poor":
                product = step = [outcome.kind, number]
            case "passing" | "lasting":
                product = step = {"passing": Passing, "lasting": Lasting}[outcome.kind](number)
            case "group" | "mixed group":
                leaf = Lasting() if outcome.kind == "mixed group" else Passing()
                product = step = ExceptionGroup("", [Passing(), leaf])
            case _:
                product = trioresil.RejectedError("good" if "good" in outcome.kind else "gate", outcome.hint)
                step = Refuse(product)
        produced.append(product)
        hints[id(product)] = outcome.hint
        steps.append(After(outcome.takes, step) if outcome.takes else step)
    retry = trioresil.Retry(
        on=lambda error: (
            isinstance(error, Passing) or (isinstance(error, trioresil.RejectedError) and error.policy == "gate")
        ),
        max_attempts=case.max_attempts,
        backoff=list(case.delays) if case.chance is None else Unsure(case.delays),
        budget=budget,
        on_result=lambda result: result[0] == "poor",
        delay_hint=(lambda product: hints[id(product)]) if case.own_hint else None,
        max_hint=case.max_hint,
        rng=FixedChance(case.chance or 0.0),
    )
    return retry, Script(*steps), produced


async def run(case: Case, form: Form) -> tuple[Told, Any]:
    retry, script, produced = build(case)
    recorder = Recorder()
    outcome: Any = None
    with trio.CancelScope(deadline=case.deadline), trioresil.instrument(recorder):
        try:
            outcome = await form(retry, script.run)
        except Exception as exc:
            outcome = exc
    told: list[Any] = recorder.of(trioresil.RetryGaveUp)
    gave_up = told[0] if told else None
    numbers = [number for number, product in enumerate(produced, 1) if product is outcome]
    lines = [line for note in getattr(outcome, "__notes__", []) for line in note.splitlines()[1:]]
    noted = [int(line.split()[1].rstrip(":")) for line in lines]
    assert len(told) <= 1
    if gave_up is not None:
        assert gave_up.error is (outcome if isinstance(outcome, Exception) else None)
        assert gave_up.attempts == len(script.began_at)
    for product in produced:
        if product is not outcome:
            assert not hasattr(product, "__notes__")
    seen = Told(
        script.began_at,
        trio.current_time(),
        numbers[0] if numbers else 0,
        gave_up.reason if gave_up else None,
        gave_up.waited if gave_up else 0,
        noted,
    )
    return seen, outcome


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS.values())
def test_any_call_goes_as_the_rules_say(form: Form) -> None:
    endings: dict[str | None, int] = {}

    @settings(prove, max_examples=600)
    @given(cases)
    def check(case: Case) -> None:
        clock = trio.testing.MockClock(autojump_threshold=0)
        seen, outcome = trio.run(run, case, form, clock=clock)
        expected = predict(case)
        assert seen == expected
        if seen.reason and isinstance(outcome, Exception):
            attempts = len(seen.began_at)
            counted = "1 attempt" if attempts == 1 else f"{attempts} attempts"
            (note,) = outcome.__notes__
            assert f"gave up after {counted} and {seen.waited:.3g} s of waiting" in note
        if isinstance(outcome, trioresil.RejectedError):
            assert outcome.started is False  # then nothing ever started
        endings[seen.reason] = endings.get(seen.reason, 0) + 1

    check()
    assert set(endings) == {None, "attempts", "hint", "deadline", "budget", "unmatched"}
    assert min(endings.values()) >= 10
