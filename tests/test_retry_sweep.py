"""Retry under cancellation at every moment: nothing more is tried, nothing stays taken, and what is told is true."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio

import trioresil
from tests._scripts import FORMS, OTHER_FORMS, After, Form, Script
from trioresil._links import passage
from trioresil.testing import Recorder, Sweep, cancellation_sweep

ALL_FORMS = pytest.mark.parametrize("form", [*FORMS.values(), *OTHER_FORMS.values()])


class Passing(Exception):
    """Worth another attempt in these tests."""


def retry_with(**configuration: Any) -> trioresil.Retry:
    return trioresil.Retry(**{"on": Passing, "backoff": [1], **configuration})


def steps() -> list[Any]:
    return [After(0.5, Passing(1)), After(0.5, Passing(2)), After(0.5, "value")]


@ALL_FORMS
def test_nothing_is_tried_after_a_cancellation(form: Form) -> None:
    """The steps of three attempts and two waits; an attempt or a result more would show."""

    async def scenario(sweep: Sweep) -> None:
        script = Script(*steps())
        result = None
        with sweep.victim():
            result = await form(retry_with(), script.run)
        cancelled_at, attempts = trio.current_time(), len(script.began_at)
        assert script.began_at == [0, 1.5, 3][:attempts]
        assert result == (None if sweep.victim_cancelled else "value")
        await trio.sleep(100)
        assert len(script.began_at) == attempts
        assert cancelled_at <= 3.5

    report = cancellation_sweep(scenario)
    assert report.cancelled > 10


@ALL_FORMS
def test_cancelled_call_gives_back_permit_and_probe(form: Form) -> None:
    """A half-open breaker and a bulkhead inside: others get in at once, whenever the victim is cancelled."""

    async def scenario(sweep: Sweep) -> None:
        limiter = trio.CapacityLimiter(1)
        breaker = trioresil.CircuitBreaker(trip=trioresil.ConsecutiveFailures(1), open_for=1, on=Passing)
        guarded = trioresil.Pipeline(breaker, trioresil.Bulkhead(limiter))
        script = Script(*steps())
        sweep.when_quiet(lambda: not (limiter.available_tokens and limiter.statistics().tasks_waiting))

        async def neighbour() -> None:
            await trio.sleep(0.25)
            await trioresil.Bulkhead(limiter).call(trio.sleep, 0.5)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(neighbour)
            with sweep.victim():
                await form(retry_with(on=(Passing, trioresil.RejectedError)), guarded(script.run))
        assert limiter.borrowed_tokens == 0
        await breaker.wait_admittable()
        await guarded.call(trio.lowlevel.checkpoint)
        assert breaker.state is trioresil.CircuitState.CLOSED

    report = cancellation_sweep(scenario)
    assert report.cancelled > 20


@pytest.mark.parametrize("form", FORMS.values())
def test_budget_pays_for_retries_only_and_once(form: Form) -> None:
    async def scenario(sweep: Sweep) -> None:
        budget = trioresil.RetryBudget(ratio=0.5, min_per_second=1, window=100)
        script = Script(*steps())
        recorder = Recorder()
        with trioresil.instrument(recorder), sweep.victim():
            await form(retry_with(budget=budget), script.run)
        scheduled = len(recorder.of(trioresil.RetryScheduled))
        called = bool(recorder.events)
        assert budget.statistics() == trioresil.RetryBudgetStatistics(
            available=100 + 0.5 * called - scheduled, withdrawn=scheduled, refused=0
        )
        assert not recorder.of(trioresil.RetryGaveUp)
        assert 0 <= scheduled - max(0, len(script.began_at) - 1) <= 1

    cancellation_sweep(scenario)


@pytest.mark.parametrize("form", FORMS.values())
def test_cancelled_retry_tells_a_timeout_around_it_the_truth(form: Form) -> None:
    """Here the victim's cancellation is looked at as a Timeout would: started, and which attempt."""

    async def scenario(sweep: Sweep) -> None:
        script = Script(*steps())
        seen: list[BaseException] = []
        with sweep.victim():
            try:
                await form(retry_with(name="search"), script.run)
            except BaseException as exc:
                seen.append(exc)
                raise
        if not seen or not script.began_at:
            return
        told = passage(seen[0])
        assert told.started is True  # each of these attempts starts as soon as it is made
        attempts = len(script.began_at)
        (note,) = told.notes
        waiting = "was being waited for" in note
        assert note.startswith(f"trioresil: attempt {attempts + waiting} of retry 'search' was ")
        last = attempts + waiting - 1
        assert note.endswith(f"; the last error was Passing({last})") is (last > 0)

    cancellation_sweep(scenario)


@pytest.mark.parametrize("form", FORMS.values())
def test_error_that_meets_a_cancellation_wins(form: Form) -> None:
    """The last attempt fails in the very step in which the scope is cancelled: the real error comes out, no Cancelled."""

    async def scenario(sweep: Sweep) -> None:
        error = Passing()

        async def fails_shielded() -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            raise error

        raised: list[BaseException] = []
        with sweep.victim(may_swallow=True):
            try:
                await form(retry_with(max_attempts=3), fails_shielded)
            except Passing as exc:
                raised.append(exc)
        if not sweep.victim_cancelled:
            assert raised == [error]

    cancellation_sweep(scenario)


@pytest.mark.parametrize("form", FORMS.values())
def test_sweep_would_see_a_retry_that_goes_on(form: Form) -> None:
    """The net itself: a wait that swallows its cancellation is caught."""

    async def scenario(sweep: Sweep) -> None:
        script = Script(*steps())

        async def stubborn() -> Any:
            with contextlib.suppress(BaseException):
                return await script.run()
            raise Passing

        with sweep.victim():
            await form(retry_with(), stubborn)

    assert cancellation_sweep(scenario, collect=True).failures
