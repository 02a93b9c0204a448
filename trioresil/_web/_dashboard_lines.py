"""One line of the live page's log for each event: what happened, how bad it is, in words without secrets. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias

from .. import _events
from .._errors import in_seconds
from .._redaction import one_line, safe_error
from ._dashboard_figures import MAX_ROWS

Level: TypeAlias = Literal["info", "warning", "error"]

TRANSITIONS: Final = (
    _events.CircuitOpened,
    _events.CircuitHalfOpened,
    _events.CircuitClosed,
    _events.HealthChanged,
    _events.ChildFailed,
    _events.ChildRestarted,
    _events.StreamConnected,
    _events.StreamBroken,
    _events.StreamGaveUp,
    _events.ShutdownRequested,
    _events.AdmissionClosed,
    _events.ShutdownCancelled,
    _events.SharedStateLost,
    _events.SharedStateRestored,
    _events.CertificateReloaded,
    _events.CertificateReloadFailed,
)
"""What is rare and must be seen: shown at once, and never crowded out of the log by what is frequent."""


def _cause(event: Any) -> str:
    error = getattr(event, "error", None)
    return "" if error is None else f": {safe_error(error)}"


def _by_hand(event: Any) -> str:
    return " by hand" if event.by_hand else ""


def _connection(event: Any) -> str:
    return "" if event.origin is None else f" to {event.origin}"


_WORDS: Final[dict[str, tuple[Level, Callable[[Any], str]]]] = {
    "CallRejected": (
        "warning",
        lambda event: f"{'rejected' if event.enforced else 'would have been rejected'}{_cause(event)}",
    ),
    "RetryScheduled": (
        "warning",
        lambda event: f"attempt {event.attempt} failed, the next in {in_seconds(event.delay)}{_cause(event)}",
    ),
    "RetryGaveUp": (
        "error",
        lambda event: f"gave up after attempt {event.attempts} ({event.reason}){_cause(event)}",
    ),
    "TimedOut": ("warning", lambda event: f"timed out after {in_seconds(event.seconds)}"),
    "CircuitOpened": (
        "error",
        lambda event: (
            f"the circuit opened{_by_hand(event)}{' elsewhere' * event.elsewhere} for {in_seconds(event.open_for)}"
            f"{_cause(event)}"
        ),
    ),
    "CircuitHalfOpened": ("warning", lambda event: "the circuit is half-open: a probe is let in"),
    "CircuitClosed": ("info", lambda event: f"the circuit closed{_by_hand(event)}"),
    "FellBack": ("warning", lambda event: f"fell back to {event.alternative}{_cause(event)}"),
    "ConnectionOpened": ("info", lambda event: f"connected{_connection(event)} in {in_seconds(event.seconds)}"),
    "ConnectionClosed": ("info", lambda event: f"closed a connection{_connection(event)} ({event.reason})"),
    "ConnectFailed": ("error", lambda event: f"could not connect{_connection(event)}{_cause(event)}"),
    "CertificateReloaded": ("info", lambda event: f"read the new certificate {event.path}"),
    "CertificateReloadFailed": ("error", lambda event: f"can't use the new certificate {event.path}{_cause(event)}"),
    "ChildFailed": (
        "error",
        lambda event: f"child {event.child!r} failed, and {event.outcome}{_cause(event)}",
    ),
    "ChildRestarted": (
        "warning",
        lambda event: f"child {event.child!r} is run again after {in_seconds(event.delay)} ({event.reason})",
    ),
    "StreamConnected": (
        "info",
        lambda event: f"session {event.session} is connected after {in_seconds(event.seconds)}",
    ),
    "StreamBroken": (
        "warning",
        lambda event: (
            f"session {event.session} is over ({event.reason}), the next in {in_seconds(event.delay)}{_cause(event)}"
        ),
    ),
    "StreamGaveUp": ("error", lambda event: f"gave up after {event.sessions} sessions ({event.reason}){_cause(event)}"),
    "ShutdownRequested": ("warning", lambda event: f"shutdown requested: {event.reason}"),
    "AdmissionClosed": ("warning", lambda event: f"closed to new work: {_list(event.drainables)}"),
    "ShutdownCancelled": (
        "error",
        lambda event: f"the body is cancelled: {event.reason}; still running: {_list(event.running)}",
    ),
    "SharedStateLost": ("error", lambda event: f"the server of the shared state is away{_cause(event)}"),
    "SharedStateRestored": (
        "info",
        lambda event: f"the server of the shared state is back after {in_seconds(event.seconds)}",
    ),
}


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names[:MAX_ROWS]) or "nothing"


def line_of(event: _events.Event) -> tuple[Level, str]:
    """Return how bad an event is, and what to say about it."""
    if isinstance(event, _events.HealthChanged):
        return _line_of_health(event)
    if isinstance(event, _events.CallFinished):
        level: Level = "info" if event.outcome in ("success", "cancelled") else "warning"
        return level, one_line(f"call {event.outcome} after {in_seconds(event.seconds)}{_cause(event)}")
    level, words = _WORDS.get(type(event).__name__, ("info", lambda _: type(event).__name__))
    return level, one_line(words(event))


def _line_of_health(event: _events.HealthChanged) -> tuple[Level, str]:
    status = event.status
    level: Level = "info" if status.state.value == "healthy" else "warning" if status.healthy else "error"
    text = f"check {status.name!r} is {status.state.value}, was {event.previous.value}"
    return level, one_line(text if status.error is None else f"{text}: {safe_error(status.error)}")
