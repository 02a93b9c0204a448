"""One of each event, and one of each thing that has statistics."""

from __future__ import annotations

import math
from typing import Any

import trioresil
from trioresil import _events
from trioresil.testing import Recorder

SECRET = "hunter2"
ERROR = OSError(f"GET https://joe:{SECRET}@a.example/x?token={SECRET} failed; Authorization: Bearer {SECRET}")


def health_status(state: trioresil.HealthState = trioresil.HealthState.UNHEALTHY) -> trioresil.HealthStatus:
    return trioresil.HealthStatus(
        name="db",
        healthy=state.is_healthy,
        state=state,
        latency=None,
        latency_p50=None,
        latency_p99=None,
        checked_at=None,
        checked_at_utc=None,
        since=0.0,
        consecutive=1,
        error=ERROR,
        critical=True,
        group=None,
    )


def one_of_each(policy: Any) -> list[trioresil.Event]:
    """Return one event of every class, all about one policy, all errors with secrets in them."""
    origin = "https://a.example"
    return [
        _events.PolicySeen(policy=policy),
        _events.CallStarted(policy=policy, key=7),
        _events.CallFinished(policy=policy, outcome="failure", seconds=1.5, error=ERROR, key=7),
        _events.AttemptStarted(policy=policy, key=8, attempt=1),
        _events.AttemptFinished(policy=policy, key=8, attempt=1, outcome="failure", seconds=1.0, error=ERROR),
        _events.CallRejected(policy=policy, error=trioresil.RateLimitedError("mine", 2.0)),
        _events.RetryScheduled(policy=policy, attempt=1, delay=0.5, error=ERROR, result=SECRET),
        _events.RetryGaveUp(policy=policy, reason="attempts", attempts=2, waited=0.5, error=ERROR, errors=(ERROR,)),
        _events.TimedOut(policy=policy, seconds=2.0, started=True),
        _events.CircuitOpened(policy=policy, open_for=5.0, level=0, error=ERROR),
        _events.CircuitHalfOpened(policy=policy),
        _events.CircuitClosed(policy=policy),
        _events.FellBack(policy=policy, alternative="cached", error=ERROR, result=SECRET),
        _events.ConnectionOpened(policy=policy, origin=origin, seconds=0.25),
        _events.ConnectionClosed(policy=policy, origin=origin, reason="idle", age=math.inf),
        _events.ConnectFailed(policy=policy, origin=origin, error=ERROR),
        _events.CertificateReloaded(policy=policy, path="/etc/c.pem"),
        _events.CertificateReloadFailed(policy=policy, path="/etc/c.pem", error=ERROR),
        _events.HealthChanged(policy=policy, name="db", status=health_status(), previous=trioresil.HealthState.HEALTHY),
        _events.ChildFailed(policy=policy, child="poll", error=ERROR, outcome="restarts"),
        _events.ChildRestarted(policy=policy, child="poll", reason="failed", error=ERROR, delay=0.5, restarts=1),
        _events.StreamConnected(policy=policy, session=1, seconds=0.5),
        _events.StreamBroken(policy=policy, session=1, reason="failed", error=ERROR, delay=1.0),
        _events.StreamGaveUp(policy=policy, sessions=2, reason="error", error=ERROR),
        _events.ShutdownRequested(policy=policy, reason="SIGTERM", lead=5.0, grace=20.0),
        _events.AdmissionClosed(policy=policy, drainables=("bulkhead",)),
        _events.ShutdownCancelled(policy=policy, reason="grace is over", running=("bulkhead",)),
    ]


class Mine:
    """Whatever an event is about."""

    def __init__(self, name: str = "mine") -> None:
        self.name = name

    def statistics(self) -> None:
        return None


class Tracer(Recorder):
    """A recorder that wants to hear of starts."""

    traces = True
