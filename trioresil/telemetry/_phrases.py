"""What a log says of an event: how grave it is, what it is called, and its fields; and how often it may be said.

Nothing of a result, no header and no query string gets in: errors are shown shortened and without secrets.
"""

from __future__ import annotations

import logging
import re
import time
from typing import Any, Final

import attrs
import trio

from .. import _events
from .._events import Event
from .._kernel.health import HealthState
from .._redaction import one_line, safe_error

LEVELS: Final[dict[type[Event], int]] = {
    _events.PolicySeen: logging.DEBUG,
    _events.CallFinished: logging.DEBUG,
    _events.CallRejected: logging.INFO,
    _events.RetryScheduled: logging.WARNING,
    _events.RetryGaveUp: logging.ERROR,
    _events.TimedOut: logging.WARNING,
    _events.CircuitOpened: logging.ERROR,
    _events.CircuitHalfOpened: logging.WARNING,
    _events.CircuitClosed: logging.INFO,
    _events.FellBack: logging.WARNING,
    _events.ConnectionOpened: logging.DEBUG,
    _events.ConnectionClosed: logging.DEBUG,
    _events.ConnectFailed: logging.WARNING,
    _events.CertificateReloaded: logging.INFO,
    _events.CertificateReloadFailed: logging.ERROR,
    _events.HealthChanged: logging.INFO,
    _events.ChildFailed: logging.ERROR,
    _events.ChildRestarted: logging.WARNING,
    _events.StreamConnected: logging.INFO,
    _events.StreamBroken: logging.WARNING,
    _events.StreamGaveUp: logging.ERROR,
    _events.ShutdownRequested: logging.INFO,
    _events.AdmissionClosed: logging.INFO,
    _events.ShutdownCancelled: logging.WARNING,
}
_OF_A_CHECK: Final = {HealthState.UNHEALTHY: logging.ERROR, HealthState.DEGRADED: logging.WARNING}
_NEVER_SHOWN: Final = {"policy", "result", "errors", "key"}


def level_of(event: Event) -> int | None:
    """Return the level of an event, None for one that isn't logged."""
    if isinstance(event, _events.HealthChanged):
        return _OF_A_CHECK.get(event.status.state, logging.INFO)
    return LEVELS.get(type(event))


def called(event: Event) -> str:
    """Return what an event is called in a log: "retry_scheduled"."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


def policy_name(event: Event) -> str:
    """Return the name of the policy, which isn't that of the check in a HealthChanged."""
    return one_line(str(getattr(event.policy, "name", type(event.policy).__name__)))


def fields_of(event: Event) -> dict[str, Any]:
    """Return what an event says, as plain values without secrets."""
    found: dict[str, Any] = {"policy": policy_name(event)}
    if isinstance(event, _events.PolicySeen):
        return found | {"kind": type(event.policy).__name__}
    if isinstance(event, _events.HealthChanged):
        status = event.status
        error = {"error": safe_error(status.error)} if status.error is not None else {}
        return found | {
            "check": one_line(event.name), "state": status.state.value, "previous": event.previous.value, **error
        }  # fmt: skip
    for field in attrs.fields(type(event)):
        value = getattr(event, field.name)
        if field.name not in _NEVER_SHOWN and value is not None:
            found[field.name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, BaseException):
        return safe_error(value)
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, (bool, int)) else one_line(str(value))


def second() -> int:
    """Return which second it is: of the run's clock, or outside of a run of another."""
    try:
        return int(trio.current_time())
    except RuntimeError:
        return int(time.monotonic())
