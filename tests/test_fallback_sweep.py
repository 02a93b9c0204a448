"""Fallback under cancellation at every moment: nothing else is tried, and a time-out learns how far it was."""

from __future__ import annotations

from typing import Any

import pytest
import trio

import trioresil
from tests._scripts import After, Refuse, Script, refuse
from tests.test_fallback import FORMS, Form, Passing
from trioresil._links import passage
from trioresil.testing import Sweep, cancellation_sweep


@pytest.mark.parametrize("first", [Passing("first"), "refused"])
@pytest.mark.parametrize("form", FORMS.values())
def test_nothing_is_tried_after_a_cancellation(form: Form, first: Any) -> None:
    async def scenario(sweep: Sweep) -> None:
        limiter = trio.CapacityLimiter(1)
        step: Any = refuse() if first == "refused" else first
        scripts = [Script(After(1, step)), Script(After(1, "poor")), Script(After(1, "value"))]
        primary, *others = scripts
        sweep.when_quiet(lambda: not (limiter.available_tokens and limiter.statistics().tasks_waiting))
        queued = trioresil.Bulkhead(limiter)
        fallback = trioresil.Fallback(
            *(queued(script.run) for script in others),
            on=(Passing, trioresil.RejectedError),
            default="default",
            on_result=lambda result: result == "poor",
            name="degrade",
        )
        seen: list[BaseException] = []
        result = None

        async def neighbour() -> None:
            await trio.sleep(0.5)
            async with limiter:
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(neighbour)
            with sweep.victim():
                try:
                    result = await form(fallback, primary.run)
                except BaseException as exc:
                    seen.append(exc)
                    raise
            tried = [len(script.began_at) for script in scripts]
        await trio.sleep(100)
        assert [len(script.began_at) for script in scripts] == tried
        assert limiter.borrowed_tokens == 0
        assert result == (None if sweep.victim_cancelled else "value")
        if seen:
            check_what_is_told(passage(seen[0]), tried, started=not isinstance(step, Refuse))

    assert cancellation_sweep(scenario).cancelled > 10


def check_what_is_told(told: Any, tried: list[int], *, started: bool) -> None:
    if told.notes:
        (note,) = told.notes
        assert " of fallback 'degrade' was in flight; the last error was " in note
        assert told.started is (started or any(tried[1:]))
    else:  # nothing else was tried; at the entrance not even the call itself
        assert sum(tried) == 1 if told.started else sum(tried) <= 1
