"""What events add to counters and histograms. What isn't in the table adds nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs

from .. import _events
from .._events import Event
from ._measures import Measure, counter, histogram

CALLS: Final = histogram("call.duration", "How long calls through a Pipeline, and HTTP requests, took.", "outcome")
REJECTIONS: Final = counter("rejections", "Calls refused.", "error", "enforced", unit="{call}")
RETRIES: Final = counter("retries", "Attempts that failed and are followed by another.", unit="{attempt}")
RETRY_WAITS: Final = counter("retry.wait", "Time waited, or to be waited, before further attempts.", unit="s")
GAVE_UP: Final = counter("retry.gave_up", "Calls for which no further attempt was made.", "reason", unit="{call}")
TIMEOUTS: Final = counter("timeouts", "Deadlines passed.", "started", unit="{timeout}")
TRANSITIONS: Final = counter("circuit_breaker.transitions", "Changes to this state.", "state", unit="{change}")
FALLBACKS: Final = counter("fallbacks", "Turns to an alternative.", "alternative", unit="{turn}")
CONNECTS: Final = histogram("connection.open_duration", "How long connections took to open.")
CLOSED: Final = counter("connections_closed", "Connections closed by a pool.", "reason", unit="{connection}")
CONNECT_FAILURES: Final = counter("connect_failures", "Connections not opened.", "error", unit="{connect}")
RELOADS: Final = counter("certificate_reloads", "Changes of a certificate's files.", "outcome", unit="{reload}")
HEALTH: Final = counter("health.changes", "Changes of a check to this state.", "check", "state", unit="{change}")
CHILD_FAILURES: Final = counter("supervisor.children_failed", "Children that raised.", "outcome", unit="{failure}")
CHILD_RESTARTS: Final = counter("supervisor.children_restarted", "Children run again.", "reason", unit="{restart}")
STREAM_CONNECTS: Final = histogram("stream.connect_duration", "How long sessions took to show a sign of life.")
STREAM_BREAKS: Final = counter("stream.breaks", "Sessions over, with another to follow.", "reason", unit="{session}")
STREAM_ENDS: Final = counter("stream.gave_up", "Streams ended by an error.", "reason", unit="{stream}")
SHUTDOWNS: Final = counter("shutdown.cancelled", "Bodies cancelled by a shutdown.", unit="{shutdown}")


@attrs.frozen
class _Row:
    """What one event adds to one measure."""

    measure: Measure
    labels: Callable[[Any], tuple[str, ...]] = lambda _: ()
    value: Callable[[Any], float] = lambda _: 1.0


def _kind(error: object) -> str:
    return type(error).__name__


def _started(event: Any) -> tuple[str]:
    return ({True: "true", False: "false"}.get(event.started, "unknown"),)


FACTS: Final[dict[type[Event], tuple[_Row, ...]]] = {
    _events.CallFinished: (_Row(CALLS, lambda e: (e.outcome,), lambda e: e.seconds),),
    _events.CallRejected: (_Row(REJECTIONS, lambda e: (_kind(e.error), str(bool(e.enforced)).lower())),),
    _events.RetryScheduled: (_Row(RETRIES), _Row(RETRY_WAITS, value=lambda e: e.delay)),
    _events.RetryGaveUp: (_Row(GAVE_UP, lambda e: (e.reason,)),),
    _events.TimedOut: (_Row(TIMEOUTS, _started),),
    _events.CircuitOpened: (_Row(TRANSITIONS, lambda _: ("open",)),),
    _events.CircuitHalfOpened: (_Row(TRANSITIONS, lambda _: ("half-open",)),),
    _events.CircuitClosed: (_Row(TRANSITIONS, lambda _: ("closed",)),),
    _events.FellBack: (_Row(FALLBACKS, lambda e: (e.alternative,)),),
    _events.ConnectionOpened: (_Row(CONNECTS, value=lambda e: e.seconds),),
    _events.ConnectionClosed: (_Row(CLOSED, lambda e: (e.reason,)),),
    _events.ConnectFailed: (_Row(CONNECT_FAILURES, lambda e: (_kind(e.error),)),),
    _events.CertificateReloaded: (_Row(RELOADS, lambda _: ("success",)),),
    _events.CertificateReloadFailed: (_Row(RELOADS, lambda _: ("failure",)),),
    _events.HealthChanged: (_Row(HEALTH, lambda e: (e.name, e.status.state.value)),),
    _events.ChildFailed: (_Row(CHILD_FAILURES, lambda e: (e.outcome,)),),
    _events.ChildRestarted: (_Row(CHILD_RESTARTS, lambda e: (e.reason,)),),
    _events.StreamConnected: (_Row(STREAM_CONNECTS, value=lambda e: e.seconds),),
    _events.StreamBroken: (_Row(STREAM_BREAKS, lambda e: (e.reason,)),),
    _events.StreamGaveUp: (_Row(STREAM_ENDS, lambda e: (e.reason,)),),
    _events.ShutdownCancelled: (_Row(SHUTDOWNS),),
}

COUNTED: Final[tuple[Measure, ...]] = tuple(dict.fromkeys(row.measure for rows in FACTS.values() for row in rows))
"""Every measure that events add to."""


def facts_of(event: Event) -> Iterator[tuple[Measure, tuple[str, ...], float]]:
    """Yield what an event adds: to which measure, with which labels, how much."""
    for row in FACTS.get(type(event), ()):
        yield row.measure, row.labels(event), row.value(event)
