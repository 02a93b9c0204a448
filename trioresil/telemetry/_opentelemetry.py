"""OpenTelemetryInstrument: metrics, and a span for each call and each attempt.

A span begins with CallStarted or AttemptStarted and is made current there: those events come in the task of the call, whose
context the user's function and all tasks that it starts inherit. The end restores what was current before, by setting that
again: a token could be given back only where it was taken, and a generator may be left elsewhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from .. import _events
from .._checks import whole
from .._events import AttemptFinished, AttemptStarted, CallFinished, CallStarted, Event
from .._redaction import safe_error
from ._extras import needed
from ._facts import COUNTED, facts_of
from ._figures import PULLED
from ._measures import Measure
from ._phrases import called, fields_of
from ._seen import Names, Pulled, Seen

BUCKETS: Final = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]
METHODS: Final = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"}
MAX_SPANS: Final = 100_000
"""Spans open at once, before the oldest is ended: most likely its end is never heard, as its listener's block was left before."""

ONE_READ: Final = 1.0
"""Seconds within which questions for different measures are about the same state of things."""

_NO_SPAN_EVENT: Final = (_events.PolicySeen, CallStarted, CallFinished, AttemptStarted, AttemptFinished)

_SPAN_EVENTS: Final[frozenset[type[Event]]] = frozenset(
    each for each in Event.__subclasses__() if each not in _NO_SPAN_EVENT
)


@attrs.define
class _Open:
    """A span that is open, and the context around it."""

    span: Any
    before: Any


class OpenTelemetryInstrument:
    """Reports to OpenTelemetry: metrics, a span for each call and one for each attempt, and events on them.

    The span of a call (through a Pipeline, or a request through a ResilientTransport) and, in it, those of its attempts are
    current while the function runs and in all tasks started in it: what an instrumented client does becomes their child.
    Retries, changes of circuits and the like are events on the span in which they happen. Metrics are named `trioresil.*`, with
    durations in seconds; what policies are like now is read from `.statistics()` when the reader asks. Needs the extra
    `opentelemetry`, and an SDK in the program.

    Synopsis::

        otel = trioresil.telemetry.OpenTelemetryInstrument()
        with trioresil.instrument(otel):
            ...

    Policies of one name are added up. No attribute holds a URL's path, a query or a header; texts of errors are shortened and
    without secrets.

    Sharing: one object for any number of runs. Holds policies weakly.

    Args:
      meter_provider (opentelemetry.metrics.MeterProvider): for metrics. Default: the global one.
      tracer_provider (opentelemetry.trace.TracerProvider): for spans. Default: the global one.
      spans (bool): whether to make spans. Default: True.
      max_names (int, >= 1): how many values an attribute of a metric may have; further ones count as "other". Default: 1000.

    Raises:
      ImportError: opentelemetry-api isn't installed.
    """

    def __init__(
        self, meter_provider: Any = None, tracer_provider: Any = None, *, spans: bool = True, max_names: int = 1000
    ) -> None:
        who = "OpenTelemetryInstrument"
        self._trace: Any = needed("opentelemetry.trace", "opentelemetry", who)
        self._metrics: Any = needed("opentelemetry.metrics", "opentelemetry", who)
        self._context: Any = needed("opentelemetry.context", "opentelemetry", who)
        if not isinstance(spans, bool):
            raise TypeError(f"spans must be True or False, not {spans!r}")
        self.traces: bool = spans
        self._names = Names(whole("max_names", max_names))
        self._seen = Seen(self._names)
        self._tracer: Any = self._trace.get_tracer("trioresil", tracer_provider=tracer_provider)
        meter = self._metrics.get_meter("trioresil", meter_provider=meter_provider)
        self._adders = {measure: _adder(meter, measure) for measure in COUNTED}
        self._unread: Pulled = {}
        self._read_at = 0.0
        self._reading = threading.Lock()
        self._pulled = [self._observed(meter, measure) for measure in PULLED]
        self._open: dict[int, _Open] = {}
        self._key: str = self._context.create_key("trioresil")

    def watch(self, *policies: Any) -> None:
        """Show these from now on, even if nobody has used them yet.

        Args:
          *policies (policies or services): objects with a `name` and `statistics()`.
        """
        for policy in policies:
            if not callable(getattr(policy, "statistics", None)):
                raise TypeError(f"a policy or service has a statistics() method; {policy!r} has none")
        for policy in policies:
            self._seen.add(policy)

    def record(self, event: Event, /) -> None:
        """Count an event, begin or end a span, or note the event on the span in which it happened."""
        self._seen.add(event.policy)
        if isinstance(event, (CallStarted, AttemptStarted)):
            self._begin(event)
        elif isinstance(event, (CallFinished, AttemptFinished)):
            self._end(event)
        for measure, labels, value in facts_of(event):
            self._adders[measure](value, self._attributes(measure, event.policy.name, labels))
        if self.traces and type(event) in _SPAN_EVENTS:
            span = self._trace.get_current_span()
            if span.is_recording():
                span.add_event(f"trioresil.{called(event)}", _flat(fields_of(event)))

    # -- metrics ---------------------------------------------------------------------------------------------------------

    def _attributes(self, measure: Measure, name: str, values: Iterable[str]) -> dict[str, str]:
        labels = zip(measure.labels, values, strict=True)
        return {
            "trioresil.policy.name": self._names.of("policy", str(name)),
            **{_attribute(label): self._names.of(label, value) for label, value in labels},
        }

    def _observed(self, meter: Any, measure: Measure) -> Any:
        def observe(_options: Any) -> list[Any]:
            found = self._read(measure)
            keys = ("trioresil.policy.name", *map(_attribute, measure.labels))
            make = self._metrics.Observation
            return [make(value, dict(zip(keys, labels, strict=True))) for labels, value in found.items()]

        make = (
            meter.create_observable_counter
            if measure.kind == "counter"
            else meter.create_observable_up_down_counter
            if measure.combine == "sum"
            else meter.create_observable_gauge
        )
        return make(measure.otel, callbacks=[observe], unit=measure.unit, description=measure.text)

    def _read(self, measure: Measure) -> dict[tuple[str, ...], float]:
        """Return the values of a measure: a reader asks for one after the other, and all come from one look at the policies."""
        with self._reading:
            now = time.monotonic()
            if measure not in self._unread or now - self._read_at > ONE_READ:
                self._unread, self._read_at = {each: {} for each in PULLED} | self._seen.pull(frozenset(PULLED)), now
            return self._unread.pop(measure)

    # -- spans -----------------------------------------------------------------------------------------------------------

    def _begin(self, event: CallStarted | AttemptStarted) -> None:
        if len(self._open) >= MAX_SPANS:
            self._open.pop(next(iter(self._open))).span.end()
        name = self._names.of("policy", str(event.policy.name))
        attributes = {"trioresil.policy.name": name, **_http_attributes(event)}
        if isinstance(event, AttemptStarted):
            name = f"{name} attempt"
            attributes["trioresil.attempt"] = event.attempt
        before = self._context.get_current()
        span = self._tracer.start_span(name, attributes=attributes)
        self._open[event.key] = _Open(span, before)
        self._context.attach(self._context.set_value(self._key, event.key, self._trace.set_span_in_context(span)))

    def _end(self, event: CallFinished | AttemptFinished) -> None:
        found = self._open.pop(event.key, None)
        if found is None:
            return
        span = found.span
        span.set_attribute("trioresil.outcome", event.outcome)
        if event.status is not None:
            span.set_attribute("http.response.status_code", event.status)
        if event.outcome in ("failure", "rejected"):
            self._tell_failure(span, event)
        span.end()
        if self._context.get_value(self._key) == event.key:  # else this is another context than it was begun in
            self._context.attach(found.before)

    def _tell_failure(self, span: Any, event: CallFinished | AttemptFinished) -> None:
        error = event.error
        kind = type(error).__qualname__ if error is not None else str(event.status)
        span.set_attribute("error.type", kind)
        text = safe_error(error) if error is not None else f"status {event.status}"
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, text))
        if error is not None:
            span.add_event("exception", {"exception.type": kind, "exception.message": text})

    def __repr__(self) -> str:
        return f"<trioresil.telemetry.OpenTelemetryInstrument {len(self._seen)} policies, {len(self._open)} spans open>"


def _adder(meter: Any, measure: Measure) -> Callable[[float, Mapping[str, str]], None]:
    if measure.kind == "histogram":
        made = meter.create_histogram(
            measure.otel, unit=measure.unit, description=measure.text, explicit_bucket_boundaries_advisory=BUCKETS
        )
        record: Callable[[float, Mapping[str, str]], None] = made.record
        return record
    add: Callable[[float, Mapping[str, str]], None] = meter.create_counter(
        measure.otel, unit=measure.unit, description=measure.text
    ).add
    return add


def _attribute(label: str) -> str:
    return "error.type" if label == "error" else f"trioresil.{label}"


def _http_attributes(event: CallStarted | AttemptStarted) -> dict[str, Any]:
    if event.method is None or event.origin is None:
        return {}
    method = event.method.upper()
    found: dict[str, Any] = {"http.request.method": method if method in METHODS else "_OTHER"}
    parts = urlsplit(event.origin)
    if parts.hostname is not None:
        found |= {"server.address": parts.hostname, "url.scheme": parts.scheme}
        found["server.port"] = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    if isinstance(event, AttemptStarted) and event.attempt > 1:
        found["http.request.resend_count"] = event.attempt - 1
    return found


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields as attributes, whose values are plain, or lists of strings."""
    names = {"policy": "trioresil.policy.name", "error": "exception.message"}
    return {
        names.get(key, f"trioresil.{key}"): [str(each) for each in value] if isinstance(value, list) else value
        for key, value in fields.items()
    }
