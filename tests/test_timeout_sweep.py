"""Timeout cancelled from outside at every moment: the cancellation passes as it is, and no block stays open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

import trioresil
from tests.test_timeout import FORMS, Form
from trioresil.testing import Recorder, Sweep, cancellation_sweep

Work = Callable[[], Awaitable[Any]]


@pytest.mark.parametrize("form", FORMS.values())
def test_cancellation_from_outside_is_never_a_time_out(form: Form) -> None:
    async def scenario(sweep: Sweep) -> None:
        timeout = trioresil.Timeout(3, name="total")
        recorder = Recorder()
        result = None

        async def work() -> str:
            await trio.sleep(1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 0.5)
                await trio.sleep(1)
            return "value"

        with trioresil.instrument(recorder), sweep.victim():
            result = await form(timeout, work)
        assert result == (None if sweep.victim_cancelled else "value")
        assert not recorder.of(trioresil.TimedOut)
        assert timeout._open == {}
        assert trio.current_effective_deadline() == float("inf")

    assert cancellation_sweep(scenario).cancelled > 10


@pytest.mark.parametrize("inner", FORMS.values())
@pytest.mark.parametrize("outer", FORMS.values())
def test_time_out_that_meets_a_cancellation_is_told_or_passes(outer: Form, inner: Form) -> None:
    """Nested, the inner one due at 2: before that the cancellation passes; from then on it is the inner one's error."""

    async def scenario(sweep: Sweep) -> None:
        shared = trioresil.Timeout(5, name="outer")
        limiter = trio.CapacityLimiter(1)
        told: list[str] = []

        async def queued() -> None:
            await trioresil.Bulkhead(limiter).call(trio.sleep, 4)

        async def nested() -> None:
            await inner(trioresil.Timeout(2, name="inner"), queued)

        with sweep.victim():
            try:
                await outer(shared, nested)
            except trioresil.TimedOutError as exc:
                told.append(exc.policy)
                assert trio.current_time() == 2
        assert limiter.borrowed_tokens == 0
        assert shared._open == {}
        assert told == ([] if sweep.victim_cancelled else ["inner"])

    assert cancellation_sweep(scenario).cancelled > 3
