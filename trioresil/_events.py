"""The facts that an instrument hears of, one frozen class for each.

`policy` is the live object, so that an instrument can pull its `.statistics()`. Hold it weakly. `at` is Trio's clock of the run.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import attrs

from ._kernel.health import HealthState


@attrs.frozen(kw_only=True)
class Event:
    """Something that happened at one policy."""

    policy: Any
    """The policy that it happened at."""

    @property
    def name(self) -> str:
        """The policy's name."""
        return str(self.policy.name)


@attrs.frozen(kw_only=True)
class PolicySeen(Event):
    """A policy was used for the first time under this instrument."""


Outcome = Literal["success", "failure", "rejected", "cancelled"]


@attrs.frozen(kw_only=True)
class CallStarted(Event):
    """A call through a Pipeline, or a request through a ResilientTransport, begins. Only for instruments with `traces = True`."""

    key: int
    """The same in the CallFinished that belongs to it, which comes whatever happens; unique in the process."""
    method: str | None = None
    """The method of an HTTP request."""
    origin: str | None = None
    """Where an HTTP request goes to: "https://host:port" without a default port."""


@attrs.frozen(kw_only=True)
class CallFinished(Event):
    """A call through a Pipeline, or a request through a ResilientTransport, came to its end."""

    outcome: Outcome
    """success: it returned; rejected: nothing was started; failure: another exception, or an answer with a status that counts
    against the server; cancelled: anything not an Exception."""
    seconds: float
    """How long it took, in seconds."""
    error: BaseException | None
    """What it raised, if it did."""
    status: int | None = None
    """The status of the answer to an HTTP request."""
    key: int = 0
    """That of its CallStarted; 0 if there was none."""


@attrs.frozen(kw_only=True)
class AttemptStarted(Event):
    """An attempt of a Retry, or of a ResilientTransport, begins. Only for instruments with `traces = True`."""

    key: int
    """The same in the AttemptFinished that belongs to it, which comes whatever happens; unique in the process."""
    attempt: int
    """Its number, from 1."""
    method: str | None = None
    """The method of an HTTP request."""
    origin: str | None = None
    """Where an HTTP request goes to: "https://host:port" without a default port."""


@attrs.frozen(kw_only=True)
class AttemptFinished(Event):
    """An attempt came to its end. Only for instruments with `traces = True`."""

    key: int
    """That of its AttemptStarted."""
    attempt: int
    """Its number, from 1."""
    outcome: Outcome
    """As that of a call. What `on_result` thinks of a result is told by the RetryScheduled that follows."""
    seconds: float
    """How long it took, in seconds."""
    error: BaseException | None
    """What it raised, if it did."""
    status: int | None = None
    """The status of the answer to an HTTP request."""


@attrs.frozen(kw_only=True)
class CallRejected(Event):
    """A policy refused a call, or would have, if it were enforced."""

    error: Exception
    """The rejection; its retry_after is in seconds."""
    enforced: bool = True
    """False: the policy only reports; the call went on."""


@attrs.frozen(kw_only=True)
class RetryScheduled(Event):
    """An attempt failed and another will be made."""

    attempt: int
    """Number of the attempt that failed, from 1."""
    delay: float
    """Seconds until the next."""
    error: Exception | None
    """What it raised; None if its result was the failure."""
    result: Any = None
    """Its result, if that was the failure."""


@attrs.frozen(kw_only=True)
class RetryGaveUp(Event):
    """An attempt failed and no other will be made."""

    reason: Literal["attempts", "hint", "deadline", "budget", "unmatched"]
    """attempts: all are used; hint: the wait asked for is beyond max_hint; deadline: the wait would pass the deadline around
    the call; budget: the retry budget is spent; unmatched: a later attempt failed with what `on` doesn't match."""
    attempts: int
    """How many were made."""
    waited: float
    """Seconds spent waiting between them."""
    error: Exception | None
    """What comes out; None if it is a result."""
    errors: tuple[Exception, ...]
    """Errors of the attempts, oldest first; the last 10."""


@attrs.frozen(kw_only=True)
class TimedOut(Event):
    """A Timeout's own deadline passed."""

    seconds: float
    """The time that was allowed."""
    started: bool | None
    """Whether the guarded function had been entered; None if nobody can tell."""


@attrs.frozen(kw_only=True)
class CircuitOpened(Event):
    """A circuit opened: calls are rejected from now on."""

    open_for: float
    """Seconds until the first probe."""
    level: int
    """How often it has re-opened lately; 0 for a first time."""
    error: BaseException | None
    """The failure that tipped it, if there was one."""
    by_hand: bool = False
    """True if open() was called."""
    elsewhere: bool = False
    """True if it was the calls of other processes that failed (SharedCircuitBreaker)."""


@attrs.frozen(kw_only=True)
class CircuitHalfOpened(Event):
    """A circuit's open time is over and the first probe is let in."""


@attrs.frozen(kw_only=True)
class CircuitClosed(Event):
    """A circuit closed: all calls pass again."""

    by_hand: bool = False
    """True if reset() was called."""


@attrs.frozen(kw_only=True)
class FellBack(Event):
    """A Fallback turned to its next alternative, or to its default."""

    alternative: str
    """Name of what is tried now; "default" for the default value."""
    error: Exception | None
    """What the one before it raised; None if its result was the failure."""
    result: Any = None
    """Its result, if that was the failure."""


@attrs.frozen(kw_only=True)
class ConnectionOpened(Event):
    """A pool opened a connection."""

    origin: str | None
    """Where to: "https://host:port" without a default port; None for a pool that has one destination."""
    seconds: float
    """How long it took, in seconds."""


@attrs.frozen(kw_only=True)
class ConnectionClosed(Event):
    """A pool closed a connection."""

    origin: str | None
    """Where to: "https://host:port" without a default port; None for a pool that has one destination."""
    reason: Literal["idle", "expired", "discarded", "evicted", "stale", "reclaimed", "retired", "closed"]
    """idle: unused for too long; expired: too old; discarded: its last use failed or was cancelled; evicted: its place was
    needed; stale: the other side had closed it; reclaimed: its response was never closed; retired: the other side, or a new
    certificate, wants no more use of it; closed: the pool closed."""
    age: float
    """Seconds since it was opened."""


@attrs.frozen(kw_only=True)
class ConnectFailed(Event):
    """A pool could not open a connection."""

    origin: str | None
    """Where to: "https://host:port" without a default port; None for a pool that has one destination."""
    error: Exception
    """What went wrong."""


@attrs.frozen(kw_only=True)
class CertificateReloaded(Event):
    """A client certificate's files changed and were read again."""

    path: str
    """The certificate's file."""


@attrs.frozen(kw_only=True)
class CertificateReloadFailed(Event):
    """A client certificate's files changed and could not be used; the one before stays in use."""

    path: str
    """The certificate's file."""
    error: Exception
    """What went wrong."""


@attrs.frozen(kw_only=True)
class HealthStatus:
    """What a health monitor knows about one check, as of when it was asked."""

    name: str
    """Its name."""
    healthy: bool
    """Whether it counts as healthy: HEALTHY or DEGRADED."""
    state: HealthState
    """UNKNOWN, HEALTHY, DEGRADED (slow) or UNHEALTHY."""
    latency: float | None
    """How long the last check that passed took, in seconds; None: none has passed yet."""
    latency_p50: float | None
    """What half of the last 100 checks that passed did not exceed, in seconds."""
    latency_p99: float | None
    """What 99 % of the last 100 checks that passed did not exceed, in seconds."""
    checked_at: float | None
    """When the last check ended, on Trio's clock of the run; None: none has ended yet."""
    checked_at_utc: datetime | None
    """The same on the wall clock, in UTC."""
    since: float
    """When it entered this state, on Trio's clock of the run."""
    consecutive: int
    """How many checks in a row ended as the last one did: passed, or failed."""
    error: Exception | None
    """What the last check that failed raised; None once one has passed that left it healthy."""
    critical: bool
    """Whether the whole is healthy only if this is."""
    group: str | None
    """Of which group it is."""


@attrs.frozen(kw_only=True)
class HealthChanged(Event):
    """A check's state changed."""

    name: str
    """The check's name; that of the monitor is `policy.name`."""
    status: HealthStatus
    """What is known now."""
    previous: HealthState
    """The state before."""
    missed: int = 0
    """How many changes this subscriber lost before this one; 0 for an instrument."""


@attrs.frozen(kw_only=True)
class ChildFailed(Event):
    """A child of a supervisor raised an Exception."""

    child: str
    """Its name."""
    error: Exception
    """What it raised."""
    outcome: Literal["restarts", "escalates", "ends", "stops"]
    """What comes of it. restarts: it will be run again; escalates: it was once too often, and the supervisor ends with a
    RestartLimitError; ends: it is never restarted; stops: it was being stopped, so its failure doesn't count."""


@attrs.frozen(kw_only=True)
class ChildRestarted(Event):
    """A supervisor runs a child again."""

    child: str
    """Its name."""
    reason: Literal["failed", "returned", "sibling", "by hand"]
    """failed, returned: what it had done; sibling: what another child of its group had done; by hand: restart() was called."""
    error: Exception | None
    """What the child, or the sibling, had raised; None if nothing was raised."""
    delay: float
    """How long the supervisor waited before, in seconds."""
    restarts: int
    """How often this child has been run again."""


@attrs.frozen(kw_only=True)
class StreamConnected(Event):
    """A session of a stream showed its first sign of life."""

    session: int
    """Which session; 1 is the first."""
    seconds: float
    """How long that took from its start, in seconds."""


@attrs.frozen(kw_only=True)
class StreamBroken(Event):
    """A session of a stream is over, and another will follow."""

    session: int
    """Which session; 1 is the first."""
    reason: Literal["failed", "returned", "silent", "rejected"]
    """failed: it raised; returned: it did that; silent: it was cancelled for want of a heartbeat; rejected: the stream's `limit`
    refused the next session, which has not begun."""
    error: Exception | None
    """What it raised, a TimedOutError if it was silent; None if it returned."""
    delay: float
    """How long the stream waits before the next session, in seconds."""


@attrs.frozen(kw_only=True)
class StreamGaveUp(Event):
    """A stream has ended, because of an error that its reader will get."""

    sessions: int
    """How many sessions there have been."""
    reason: Literal["error", "time"]
    """error: a session raised what `on` doesn't match; time: there was no item for `give_up_after`."""
    error: Exception
    """What ended it."""


@attrs.frozen(kw_only=True)
class ShutdownRequested(Event):
    """Somebody asked for a shutdown: this process is not ready any more, and serves on for the lead."""

    reason: str
    """Who: the name of a signal, or what `request` was given."""
    lead: float
    """For how long admission stays open, in seconds, unless a SIGINT comes."""
    grace: float
    """For how long after that the body may go on, in seconds."""


@attrs.frozen(kw_only=True)
class AdmissionClosed(Event):
    """A shutdown closed everything that is registered to new work."""

    drainables: tuple[str, ...]
    """The names of what it closed."""


@attrs.frozen(kw_only=True)
class ShutdownCancelled(Event):
    """A shutdown cancelled its body, because its grace was over or a second signal came."""

    reason: str
    """Why, as the Cancelled says it."""
    running: tuple[str, ...]
    """The names of what had work inside."""


@attrs.frozen(kw_only=True)
class SharedStateLost(Event):
    """The server of shared state is away; until it is back each policy does what its on_unavailable says."""

    error: Exception
    """What showed it."""


@attrs.frozen(kw_only=True)
class SharedStateRestored(Event):
    """The server of shared state answers again."""

    seconds: float
    """How long it was away, in seconds."""
