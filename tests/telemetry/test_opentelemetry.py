"""OpenTelemetryInstrument: a span a call and one an attempt, current where the work is done; metrics in seconds."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import trio
from opentelemetry import context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

import trioresil
from tests.telemetry._y import SECRET, Mine, one_of_each
from trioresil import Bulkhead, CircuitBreaker, Pipeline, Retry
from trioresil.httpx import ResilientTransport
from trioresil.telemetry import OpenTelemetryInstrument
from trioresil.telemetry import _opentelemetry as module


class Collected:
    """An instrument with an SDK that keeps everything in memory."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.instrument = OpenTelemetryInstrument(self.meters, self.provider, **options)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def points(self) -> dict[str, list[Any]]:
        data: Any = self.reader.get_metrics_data()
        if data is None:
            return {}
        (resource,) = data.resource_metrics
        (scope,) = resource.scope_metrics
        return {each.name: list(each.data.data_points) for each in scope.metrics}


@pytest.fixture
def collected() -> Any:
    found = Collected()
    yield found
    found.meters.shutdown()
    found.provider.shutdown()


def parent_of(span: ReadableSpan, spans: list[ReadableSpan]) -> str | None:
    return next((each.name for each in spans if span.parent and each.context.span_id == span.parent.span_id), None)


async def test_a_span_a_call_and_one_an_attempt_current_in_the_work_and_its_tasks(
    autojump_clock: object, collected: Collected
) -> None:
    tracer = collected.provider.get_tracer("user")
    attempts = 0

    async def child() -> None:
        with tracer.start_as_current_span("child"):
            await trio.sleep(1)

    async def work() -> str:
        nonlocal attempts
        attempts += 1
        with tracer.start_as_current_span("work"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)
        if attempts == 1:
            raise OSError(f"https://a.example/?{SECRET}")
        return "done"

    pipeline = Pipeline(Retry(on=OSError, backoff=[1], name="again"), name="search")
    with trioresil.instrument(collected.instrument), tracer.start_as_current_span("user"):
        assert await pipeline.call(work) == "done"
        assert trace.get_current_span().name == "user"  # type: ignore[attr-defined]
    spans = collected.spans
    assert [(each.name, parent_of(each, spans)) for each in spans] == [
        ("child", "work"),
        ("work", "again attempt"),
        ("again attempt", "search"),
        ("child", "work"),
        ("work", "again attempt"),
        ("again attempt", "search"),
        ("search", "user"),
        ("user", None),
    ]
    first, second, call = spans[2], spans[5], spans[6]
    assert dict(first.attributes or {}) == {
        "trioresil.policy.name": "again",
        "trioresil.attempt": 1,
        "trioresil.outcome": "failure",
        "error.type": "OSError",
    }
    assert first.status.status_code is StatusCode.ERROR
    assert first.status.description == "OSError: https://a.example/"
    assert [each.name for each in first.events] == ["exception"]
    assert (second.attributes or {})["trioresil.outcome"] == "success"
    assert second.status.status_code is StatusCode.UNSET
    assert [each.name for each in call.events] == ["trioresil.retry_scheduled"]
    assert dict(call.events[0].attributes or {})["trioresil.delay"] == 1.0
    assert SECRET not in "".join(each.to_json() for each in spans)


async def test_a_cancelled_call_ends_its_spans_and_is_no_error(autojump_clock: object, collected: Collected) -> None:
    pipeline = Pipeline(Retry(on=OSError), name="search")
    before = context.get_current()
    with trioresil.instrument(collected.instrument), trio.move_on_after(1):
        await pipeline.call(trio.sleep_forever)
    assert [(each.name, (each.attributes or {})["trioresil.outcome"]) for each in collected.spans] == [
        ("retry attempt", "cancelled"),
        ("search", "cancelled"),
    ]
    assert all(each.status.status_code is StatusCode.UNSET for each in collected.spans)
    assert context.get_current() == before
    assert "0 spans open" in repr(collected.instrument)


async def test_a_change_of_a_circuit_is_an_event_on_the_attempt(collected: Collected) -> None:
    async def fails() -> None:
        raise ConnectionError

    breaker = CircuitBreaker(trip=trioresil.ConsecutiveFailures(1), name="circuit")
    with trioresil.instrument(collected.instrument), pytest.raises(ConnectionError):
        await Pipeline(Retry(on=OSError, max_attempts=1), breaker).call(fails)
    assert [each.name for each in collected.spans[0].events] == ["trioresil.circuit_opened", "exception"]
    assert [each.name for each in collected.spans[1].events] == ["trioresil.retry_gave_up", "exception"]


async def test_attempts_of_the_loop_form_have_spans_too(collected: Collected) -> None:
    current = []
    with trioresil.instrument(collected.instrument):
        async for attempt in Retry(on=OSError, backoff=[0], name="again"):
            with attempt:
                current.append(trace.get_current_span().is_recording())
                if attempt.number == 1:
                    raise OSError
        assert not trace.get_current_span().is_recording()
    assert current == [True, True]
    assert [(each.attributes or {})["trioresil.attempt"] for each in collected.spans] == [1, 2]


async def test_a_generator_left_elsewhere_harms_nobody(collected: Collected, caplog: pytest.LogCaptureFixture) -> None:
    async def values() -> AsyncIterator[int]:
        async for attempt in Retry(on=OSError):
            with attempt:
                yield 1

    generator = values()
    with trioresil.instrument(collected.instrument):

        async def begin() -> None:
            assert await anext(generator) == 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(begin)
        tracer = collected.provider.get_tracer("user")
        with caplog.at_level(logging.WARNING), tracer.start_as_current_span("user") as user:
            await generator.aclose()  # type: ignore[attr-defined]
            assert trace.get_current_span() is user
    assert [each.name for each in collected.spans] == ["retry attempt", "user"]
    assert caplog.records == []


@pytest.mark.parametrize(
    ("method", "url", "told"),
    [
        ("GET", "https://joe:hunter2@a.example/x?token=hunter2", ("GET", "a.example", 443, "https")),
        ("BREW", "http://a.example:8080/", ("_OTHER", "a.example", 8080, "http")),
    ],
)
async def test_spans_of_http_requests_say_where_to_and_what_came(
    autojump_clock: object, collected: Collected, method: str, url: str, told: tuple[Any, ...]
) -> None:
    answers = iter([503, 200])

    class Scripted(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(next(answers), request=request)

    judged = Retry(on=lambda _: True, on_result=lambda _: True, backoff=[0], name="again")
    transport = ResilientTransport(Scripted(), retry=judged, name="api")
    with trioresil.instrument(collected.instrument):
        async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
            await client.request(method, url, extensions={"trioresil": {"idempotent": True}})
    first, second, call = collected.spans
    names = ("http.request.method", "server.address", "server.port", "url.scheme")
    for span in (first, second, call):
        assert tuple((span.attributes or {})[name] for name in names) == told
    resent = [(span.attributes or {}).get("http.request.resend_count") for span in (first, second, call)]
    assert resent == [None, 1, None]
    assert [(span.attributes or {})["http.response.status_code"] for span in (first, second, call)] == [503, 200, 200]
    assert (first.attributes or {})["error.type"] == "503"
    assert first.status.description == "status 503"
    assert [span.name for span in (first, second, call)] == ["again attempt", "again attempt", "api"]
    assert SECRET not in "".join(each.to_json() for each in collected.spans)


def test_spans_whose_end_is_never_heard_are_bounded(collected: Collected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SPANS", 3)
    mine = Mine()

    def begin() -> None:
        for key in range(10):
            collected.instrument.record(trioresil.CallStarted(policy=mine, key=key))
        assert "3 spans open" in repr(collected.instrument)
        assert len(collected.spans) == 7  # the oldest are ended: new calls are traced for ever
        collected.instrument.record(
            trioresil.CallFinished(policy=mine, key=9, outcome="success", seconds=1.0, error=None)
        )
        assert collected.spans[-1].attributes["trioresil.outcome"] == "success"

    import contextvars

    contextvars.copy_context().run(begin)


def test_a_collection_looks_at_each_policy_once(collected: Collected) -> None:
    class Counting(Bulkhead):
        looks = 0

        def statistics(self) -> trioresil.BulkheadStatistics:
            self.looks += 1
            return super().statistics()

    hull = Counting(3, name="hull")
    collected.instrument.watch(hull)
    for expected in (1, 2):
        assert collected.points()["trioresil.bulkhead.limit"]
        assert hull.looks == expected


def test_what_was_read_is_stale_after_a_second(collected: Collected, monkeypatch: pytest.MonkeyPatch) -> None:
    hull, now = Bulkhead(3, name="hull"), 100.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    collected.instrument.watch(hull)
    limit, inside = (
        next(each for each in module.PULLED if each.name == f"bulkhead.{name}") for name in ("limit", "inside")
    )
    assert collected.instrument._read(limit) == {("hull",): 3}
    now += module.ONE_READ
    assert collected.instrument._read(inside) == {("hull",): 0}
    assert collected.instrument._read(limit) == {("hull",): 3}  # read before: so this is another collection
    now += module.ONE_READ + 0.001
    del hull
    assert collected.instrument._read(inside) == {}


async def test_without_spans_only_metrics_are_reported() -> None:
    collected = Collected(spans=False)
    with trioresil.instrument(collected.instrument):
        assert trioresil._instruments.tracing == 0
        await Pipeline(Retry(on=OSError), name="p").call(trio.lowlevel.checkpoint)
    assert collected.spans == []
    assert "trioresil.call.duration" in collected.points()
    collected.meters.shutdown()


async def test_metrics_have_semantic_names_and_seconds(autojump_clock: object, collected: Collected) -> None:
    hull = Bulkhead(3, name="hull")
    pipeline = Pipeline(Retry(on=OSError), CircuitBreaker(name="c"), hull, name="search")
    with trioresil.instrument(collected.instrument):
        await pipeline.call(trio.sleep, 1.5)
    points = collected.points()
    (call,) = points["trioresil.call.duration"]
    assert (call.sum, call.count) == (1.5, 1)
    assert dict(call.attributes) == {"trioresil.policy.name": "search", "trioresil.outcome": "success"}
    (limit,) = points["trioresil.bulkhead.limit"]
    assert (limit.value, dict(limit.attributes)) == (3, {"trioresil.policy.name": "hull"})
    states = {each.attributes["trioresil.state"]: each.value for each in points["trioresil.circuit_breaker.state"]}
    assert states == {"closed": 1, "open": 0, "half-open": 0, "isolated": 0}


def test_each_event_is_told_and_none_holds_a_secret(collected: Collected) -> None:
    mine, instrument = Mine(), collected.instrument
    tracer = collected.provider.get_tracer("user")
    with tracer.start_as_current_span("user"):
        for event in one_of_each(mine):
            instrument.record(event)
    told = "".join(each.to_json() for each in collected.spans)
    assert SECRET not in told
    assert SECRET not in str(collected.points())
    names = {each.name for span in collected.spans for each in span.events}
    assert {"trioresil.fell_back", "trioresil.health_changed", "trioresil.stream_broken", "exception"} <= names
    assert {"trioresil.fallbacks", "trioresil.stream.breaks", "trioresil.timeouts"} <= collected.points().keys()


def test_what_is_watched_is_reported_before_its_first_use(collected: Collected) -> None:
    hull = Bulkhead(2, name="hull")
    collected.instrument.watch(hull)
    assert collected.points()["trioresil.bulkhead.inside"][0].value == 0
    with pytest.raises(TypeError, match=r"statistics\(\) method; 5 has none"):
        collected.instrument.watch(5)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="spans must be True or False, not 1"):
        OpenTelemetryInstrument(spans=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_names must be a whole number >= 1, not 0"):
        OpenTelemetryInstrument(max_names=0)
