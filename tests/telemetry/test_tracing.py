"""Starts and ends for instruments that trace: each start has its end, on every path out, and others hear nothing of them."""

from __future__ import annotations

import contextlib
from typing import Any

import httpx
import pytest
import trio

import trioresil
from tests.telemetry._y import Tracer
from trioresil import AttemptFinished, AttemptStarted, CallFinished, CallStarted, Pipeline, Retry, _instruments
from trioresil.httpx import ResilientTransport
from trioresil.testing import Recorder, Sweep, cancellation_sweep

KINDS = (CallStarted, CallFinished, AttemptStarted, AttemptFinished)


def happened(recorder: Recorder) -> list[tuple[Any, ...]]:
    """Return starts and ends, as (kind, number of the attempt, outcome), and check that keys belong together."""
    found, open_keys = [], []
    for event in recorder.events:
        if isinstance(event, (CallStarted, AttemptStarted)):
            open_keys.append(event.key)
        elif isinstance(event, (CallFinished, AttemptFinished)):
            assert event.key == open_keys.pop()
        if isinstance(event, KINDS):
            found.append((type(event).__name__, getattr(event, "attempt", None), getattr(event, "outcome", None)))
    assert open_keys == []
    return found


def failing(*errors: BaseException | None) -> Any:
    steps = iter(errors)

    async def work() -> str:
        await trio.sleep(1)
        error = next(steps)
        if error is not None:
            raise error
        return "done"

    return work


async def test_a_call_and_each_attempt_begin_and_end(autojump_clock: object) -> None:
    tracer = Tracer()
    with trioresil.instrument(tracer):
        await Pipeline(Retry(on=OSError, backoff=[5])).call(failing(OSError(), OSError(), None))
    assert happened(tracer) == [
        ("CallStarted", None, None),
        ("AttemptStarted", 1, None),
        ("AttemptFinished", 1, "failure"),
        ("AttemptStarted", 2, None),
        ("AttemptFinished", 2, "failure"),
        ("AttemptStarted", 3, None),
        ("AttemptFinished", 3, "success"),
        ("CallFinished", None, "success"),
    ]
    assert [each.seconds for each in tracer.of(AttemptFinished)] == [1, 1, 1]
    assert tracer.of(CallFinished)[0].seconds == 13
    assert isinstance(tracer.of(AttemptFinished)[0].error, OSError)


async def test_the_loop_form_tells_the_same(autojump_clock: object) -> None:
    tracer, work = Tracer(), failing(OSError(), None)
    with trioresil.instrument(tracer):
        async for attempt in Retry(on=OSError, backoff=[5]):
            with attempt:
                await work()
    assert happened(tracer) == [
        ("AttemptStarted", 1, None),
        ("AttemptFinished", 1, "failure"),
        ("AttemptStarted", 2, None),
        ("AttemptFinished", 2, "success"),
    ]
    assert [each.seconds for each in tracer.of(AttemptFinished)] == [1, 1]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(KeyError(), "failure"), (KeyboardInterrupt(), "cancelled"), (trioresil.RateLimitedError("b", 1), "failure")],
)
async def test_whatever_is_raised_ends_them(autojump_clock: object, error: BaseException, outcome: str) -> None:
    tracer, looped = Tracer(), Tracer()
    with trioresil.instrument(tracer), pytest.raises(type(error)):
        await Pipeline(Retry(on=OSError)).call(failing(error))
    assert happened(tracer)[-2:] == [("AttemptFinished", 1, outcome), ("CallFinished", None, outcome)]
    assert tracer.of(AttemptFinished)[0].error is error
    with trioresil.instrument(looped), contextlib.suppress(type(error)):
        async for attempt in Retry(on=OSError):
            with attempt:
                raise error
    assert [each[0] for each in happened(looped)] == ["AttemptStarted", "AttemptFinished"]


async def test_a_rejected_attempt_is_told_as_such() -> None:
    breaker, tracer = trioresil.CircuitBreaker(), Tracer()
    breaker.isolate()
    with trioresil.instrument(tracer), pytest.raises(trioresil.CircuitIsolatedError):
        await Pipeline(Retry(on=OSError), breaker).call(failing(None))
    assert happened(tracer)[-2:] == [("AttemptFinished", 1, "rejected"), ("CallFinished", None, "rejected")]


async def loop_form(retry: Retry, work: Any) -> None:
    async for attempt in retry:
        with attempt:
            await work()


@pytest.mark.parametrize("looped", [False, True])
def test_each_start_has_its_end_wherever_it_is_cancelled(looped: bool) -> None:
    async def scenario(sweep: Sweep) -> None:
        tracer, retry, work = Tracer(), Retry(on=OSError, backoff=[1]), failing(OSError(), OSError(), None)
        with trioresil.instrument(tracer), sweep.victim():
            await (loop_form(retry, work) if looped else Pipeline(retry).call(work))
        found = happened(tracer)
        if sweep.victim_cancelled and found:
            assert found[-1][2] in ("cancelled", "failure")
        assert _instruments.tracing == 0

    assert cancellation_sweep(scenario).cancelled > 5


async def test_who_does_not_trace_hears_ends_of_calls_only() -> None:
    recorder, tracer = Recorder(), Tracer()
    pipeline = Pipeline(Retry(on=OSError))
    with trioresil.instrument(recorder):
        await pipeline.call(trio.lowlevel.checkpoint)
        with trioresil.instrument(tracer):
            assert _instruments.tracing == 1
            await pipeline.call(trio.lowlevel.checkpoint)
        assert _instruments.tracing == 0
    kinds = [type(each) for each in recorder.events if isinstance(each, KINDS)]
    assert kinds == [CallFinished, CallFinished]
    assert [each.key == 0 for each in recorder.of(CallFinished)] == [True, False]
    assert len(happened(tracer)) == 4


async def test_a_tracer_elsewhere_hears_nothing() -> None:
    tracer, here = Tracer(), Recorder()
    started, done = trio.Event(), trio.Event()

    async def elsewhere() -> None:
        with trioresil.instrument(tracer):
            started.set()
            await done.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(elsewhere)
        await started.wait()
        with trioresil.instrument(here):
            await Pipeline(Retry(on=OSError)).call(trio.lowlevel.checkpoint)
            await loop_form(Retry(on=OSError), trio.lowlevel.checkpoint)
        done.set()
    assert tracer.events == []
    assert [each.key for each in here.of(CallFinished)] == [0]


async def test_the_events_come_in_the_context_of_the_call(autojump_clock: object) -> None:
    import contextvars

    current: contextvars.ContextVar[str] = contextvars.ContextVar("current", default="none")
    seen: list[str] = []

    class Marking(Tracer):
        def record(self, event: trioresil.Event, /) -> None:
            if isinstance(event, AttemptStarted):
                current.set(f"attempt {event.attempt}")

    async def work() -> None:
        async def child() -> None:
            seen.append(current.get())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
        if len(seen) == 1:
            raise OSError

    with trioresil.instrument(Marking()):
        await Retry(on=OSError, backoff=[1]).call(work)
    assert seen == ["attempt 1", "attempt 2"]


# --- HTTP --------------------------------------------------------------------------------------------------------------


class Scripted(httpx.AsyncBaseTransport):
    def __init__(self, *answers: int | BaseException) -> None:
        self.answers = iter(answers)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await trio.sleep(1)
        answer = next(self.answers)
        if isinstance(answer, BaseException):
            raise answer
        return httpx.Response(answer, request=request)


async def ask(tracer: Recorder, *answers: int | BaseException, **options: Any) -> None:
    transport = ResilientTransport(Scripted(*answers), name="api", **options)
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        with trioresil.instrument(tracer):
            await client.get("https://joe:hunter2@a.example/x?token=hunter2")


async def test_a_request_and_its_attempts_are_told(autojump_clock: object) -> None:
    tracer = Tracer()
    await ask(tracer, 503, httpx.ConnectError("x"), 200)
    assert happened(tracer) == [
        ("CallStarted", None, None),
        ("AttemptStarted", 1, None),
        ("AttemptFinished", 1, "failure"),
        ("AttemptStarted", 2, None),
        ("AttemptFinished", 2, "failure"),
        ("AttemptStarted", 3, None),
        ("AttemptFinished", 3, "success"),
        ("CallFinished", None, "success"),
    ]
    assert [each.status for each in tracer.of(AttemptFinished)] == [503, None, 200]
    (start,), (end,) = tracer.of(CallStarted), tracer.of(CallFinished)
    assert (start.name, start.method, start.origin) == ("api", "GET", "https://a.example")
    assert (end.status, end.error) == (200, None)
    assert {each.name for each in tracer.of(AttemptStarted)} == {"api-retry"}
    assert "hunter2" not in str(tracer.events)


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, "success"), (404, "success"), (429, "failure"), (500, "failure")]
)
async def test_the_status_of_the_answer_decides(autojump_clock: object, status: int, outcome: str) -> None:
    recorder = Recorder()
    await ask(recorder, status, retry=None)
    (end,) = recorder.of(CallFinished)
    assert (end.outcome, end.status, end.error, end.seconds) == (outcome, status, None, 1)


async def test_a_request_without_a_retry_has_one_attempt(autojump_clock: object) -> None:
    tracer = Tracer()
    await ask(tracer, 503, retry=None)
    assert [each[0] for each in happened(tracer)] == [
        "CallStarted",
        "AttemptStarted",
        "AttemptFinished",
        "CallFinished",
    ]
    assert tracer.of(AttemptStarted)[0].name == "api"


def test_each_start_of_a_request_has_its_end_wherever_it_is_cancelled() -> None:
    async def scenario(sweep: Sweep) -> None:
        tracer = Tracer()
        with sweep.victim():
            await ask(tracer, 503, httpx.ConnectError("x"), 200)
        happened(tracer)

    assert cancellation_sweep(scenario).cancelled > 5


async def test_the_retry_of_a_transport_is_seen_with_its_budget(autojump_clock: object) -> None:
    recorder = Recorder()
    await ask(recorder, 200)
    seen = [type(each.policy).__name__ for each in recorder.of(trioresil.PolicySeen)]
    assert seen[:2] == ["ResilientTransport", "Retry"]


async def test_what_a_request_raises_decides_how_it_ended(autojump_clock: object) -> None:
    recorder = Recorder()
    with contextlib.suppress(httpx.ConnectError):
        await ask(recorder, httpx.ConnectError("x"), retry=None)
    with trio.move_on_after(0.5):
        await ask(recorder, 200, retry=None)
    failed, cancelled = recorder.of(CallFinished)
    assert (failed.outcome, failed.status, type(failed.error)) == ("failure", None, httpx.ConnectError)
    assert (cancelled.outcome, cancelled.status, cancelled.seconds) == ("cancelled", None, 0.5)
