"""What the statistics of policies and services say, as figures: read when somebody looks, and not before.

Statistics are told apart by the names of their classes, so that a program without HTTP doesn't import it for this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import attrs

from .._kernel.circuit import CircuitState
from .._kernel.health import HealthState
from ._measures import Measure, counter, gauge

POLICIES: Final = gauge("policies", "Policies and services of this name that were seen and are alive.", "kind")

_CIRCUIT: Final = (
    ("inside", gauge("circuit_breaker.inside", "Calls under way.", unit="{call}")),
    ("probes_out", gauge("circuit_breaker.probes", "Probes that hold a slot.", unit="{probe}")),
    ("isolations", gauge("circuit_breaker.isolations", "Holds that keep it open by hand.", unit="{hold}")),
    ("opened", counter("circuit_breaker.opened", "Times that the circuit opened.", unit="{time}")),
    ("remaining", gauge("circuit_breaker.remaining", "Time until the next probe.", unit="s", combine="max")),
    ("level", gauge("circuit_breaker.level", "Times it has re-opened lately.", combine="max")),
)

_AVAILABLE: Final = (
    "available",
    gauge("shared_state.available", "Whether the server of the shared state answers.", combine="min"),
)

SIMPLE: Final[dict[str, tuple[tuple[str, Measure], ...]]] = {
    "BulkheadStatistics": (
        ("limit", gauge("bulkhead.limit", "Calls that may be inside at once.", unit="{call}")),
        ("inside", gauge("bulkhead.inside", "Calls inside.", unit="{call}")),
        ("borrowed", gauge("bulkhead.borrowed", "Permits of the limiter taken, by whomever.", unit="{permit}")),
        ("waiting", gauge("bulkhead.waiting", "Tasks in the queue.", unit="{task}")),
        ("closed", gauge("bulkhead.closed", "Whether admission is closed.")),
    ),
    "CircuitBreakerStatistics": _CIRCUIT,
    "TokenBucketStatistics": (
        ("tokens", gauge("token_bucket.tokens", "Tokens there; below 0 after a charge.", unit="{token}")),
        ("capacity", gauge("token_bucket.capacity", "Most tokens that it holds.", unit="{token}")),
        ("rate", gauge("token_bucket.rate", "Tokens that come in each second.", unit="{token}/s")),
        ("waiting", gauge("token_bucket.waiting", "Tasks in the queue.", unit="{task}")),
        ("waiting_tokens", gauge("token_bucket.waiting_tokens", "Tokens that they wait for.", unit="{token}")),
        ("paused_for", gauge("token_bucket.pause_remaining", "Time until a pause ends.", unit="s", combine="max")),
        ("granted", counter("token_bucket.granted", "Grants.", unit="{grant}")),
    ),
    "SharedTokenBucketStatistics": (
        ("capacity", gauge("shared_token_bucket.capacity", "Most tokens that the server holds.", unit="{token}")),
        ("rate", gauge("shared_token_bucket.rate", "Tokens that come in each second.", unit="{token}/s")),
        ("waiting", gauge("shared_token_bucket.waiting", "Tasks of this process that wait.", unit="{task}")),
        ("held", gauge("shared_token_bucket.held", "Tokens leased by this process and not used.", unit="{token}")),
        ("granted", counter("shared_token_bucket.granted", "Grants to this process.", unit="{grant}")),
        (
            "unavailable",
            counter("shared_token_bucket.unavailable", "Calls decided without the server.", unit="{call}"),
        ),
    ),
    "SharedSemaphoreStatistics": (
        ("limit", gauge("shared_semaphore.limit", "Permits of all processes together.", unit="{permit}")),
        ("inside", gauge("shared_semaphore.inside", "Calls inside, in this process.", unit="{call}")),
        ("waiting", gauge("shared_semaphore.waiting", "Tasks of this process that wait.", unit="{task}")),
        ("granted", counter("shared_semaphore.granted", "Permits granted to this process.", unit="{permit}")),
        ("lost", counter("shared_semaphore.lost", "Blocks that lost their permit.", unit="{block}")),
        ("unavailable", counter("shared_semaphore.unavailable", "Calls decided without the server.", unit="{call}")),
    ),
    "SharedCircuitBreakerStatistics": (
        *_CIRCUIT,
        ("unreported", gauge("shared_circuit_breaker.unreported", "Outcomes not told yet.", unit="{call}")),
        (
            "unavailable",
            counter("shared_circuit_breaker.unavailable", "Calls decided without the server.", unit="{call}"),
        ),
    ),
    "RedisEngineStatistics": (_AVAILABLE,),
    "MemoryEngineStatistics": (_AVAILABLE,),
    "RetryBudgetStatistics": (
        ("available", gauge("retry_budget.available", "Retries that could be made now.", unit="{retry}")),
        ("withdrawn", counter("retry_budget.withdrawn", "Retries paid from the budget.", unit="{retry}")),
        ("refused", counter("retry_budget.refused", "Retries that the budget refused.", unit="{retry}")),
    ),
    "KeyedStatistics": (
        ("keys", gauge("keyed.keys", "Policies held.", unit="{policy}")),
        ("made", counter("keyed.made", "Policies made.", unit="{policy}")),
    ),
    "PoolStatistics": (
        ("max_size", gauge("pool.limit", "Connections that may be open at once.", unit="{connection}")),
        ("leased", gauge("pool.leased", "Connections lent.", unit="{connection}")),
        ("idle", gauge("pool.idle", "Connections that wait to be lent.", unit="{connection}")),
        ("connecting", gauge("pool.connecting", "Connections being made.", unit="{connection}")),
        ("closing", gauge("pool.closing", "Connections being closed.", unit="{connection}")),
        ("waiting", gauge("pool.waiting", "Tasks in the queue.", unit="{task}")),
        ("opened", counter("pool.opened", "Connections made.", unit="{connection}")),
        ("reused", counter("pool.reused", "Times a connection was lent again.", unit="{lease}")),
        ("connect_failed", counter("pool.connect_failed", "Connects that failed.", unit="{connect}")),
        ("closed", gauge("pool.closed", "Whether the pool takes in no more work.")),
    ),
    "WorkersStatistics": (
        ("workers", gauge("workers.limit", "Items that may be in hand at once.", unit="{item}")),
        ("busy", gauge("workers.busy", "Workers that have an item in hand.", unit="{worker}")),
        ("delivering", gauge("workers.delivering", "Workers that wait for room among results.", unit="{worker}")),
        ("queued", gauge("workers.queued", "Accepted items that wait for a worker.", unit="{item}")),
        ("sending", gauge("workers.sending", "Tasks that wait to send.", unit="{task}")),
        ("unfinished", gauge("workers.unfinished", "Accepted items that have not ended.", unit="{item}")),
        ("accepted", counter("workers.accepted", "Items accepted.", unit="{item}")),
        ("succeeded", counter("workers.succeeded", "Items whose function returned.", unit="{item}")),
        ("failed", counter("workers.failed", "Items that ended with an error.", unit="{item}")),
        ("undelivered", counter("workers.undelivered", "Outcomes that found no reader.", unit="{item}")),
        ("closed", gauge("workers.closed", "Whether no more items are accepted.")),
    ),
    "ConcurrentMapStatistics": (
        ("workers", gauge("map.limit", "Items that may be in hand at once.", unit="{item}")),
        ("busy", gauge("map.busy", "Workers that have an item in hand.", unit="{worker}")),
        ("unread", gauge("map.unread", "Outcomes that wait to be read.", unit="{item}")),
        ("taken", counter("map.taken", "Items taken.", unit="{item}")),
        ("succeeded", counter("map.succeeded", "Items whose function returned.", unit="{item}")),
        ("failed", counter("map.failed", "Items that ended with an error.", unit="{item}")),
    ),
    "StreamStatistics": (
        ("sessions", counter("stream.sessions", "Sessions begun.", unit="{session}")),
        ("received", counter("stream.received", "Items that sessions have sent.", unit="{item}")),
        ("delivered", counter("stream.delivered", "Items that readers have taken.", unit="{item}")),
        ("dropped", counter("stream.dropped", "Items dropped because the buffer was full.", unit="{item}")),
        ("buffered", gauge("stream.buffered", "Items that wait for a reader.", unit="{item}")),
        ("outgoing", gauge("stream.outgoing", "Messages that wait for a session.", unit="{message}")),
    ),
    "SupervisorStatistics": (
        ("restarts", counter("supervisor.restarts", "Times a child was run again.", unit="{restart}")),
        ("ended", counter("supervisor.ended", "Children that have ended.", unit="{child}")),
        ("closed", gauge("supervisor.closed", "Whether it takes in no more children.")),
    ),
    "HealthMonitorStatistics": (
        ("healthy", gauge("health.healthy", "Whether the whole is healthy.", combine="min")),
        ("draining", gauge("health.draining", "Whether a shutdown has begun.", combine="max")),
        ("running", gauge("health.running", "Whether it checks.", combine="min")),
        ("subscribers", gauge("health.subscribers", "How many subscribe.", unit="{subscriber}")),
        ("missed", counter("health.missed", "Changes that slow subscribers lost.", unit="{change}")),
    ),
    "ShutdownStatistics": (
        ("signals", counter("shutdown.signals", "Signals caught.", unit="{signal}")),
        ("registered", gauge("shutdown.registered", "Things that are closed and drained.", unit="{thing}")),
        ("running", gauge("shutdown.running", "How many of them are closed and not drained.", unit="{thing}")),
    ),
    "ResilientTransportStatistics": (
        ("inside", gauge("http.inside", "Requests that wait for their answer.", unit="{request}")),
        ("requests", counter("http.requests", "Requests.", unit="{request}")),
        ("retries", counter("http.retries", "Attempts after the first.", unit="{attempt}")),
        ("closed", gauge("http.closed", "Whether admission is closed.")),
    ),
    "PoolTransportStatistics": (
        ("max_connections", gauge("http_pool.limit", "Connections that may be open.", unit="{connection}")),
        ("in_use", gauge("http_pool.in_use", "Connections that carry a request.", unit="{connection}")),
        ("idle", gauge("http_pool.idle", "Connections that are ready for one.", unit="{connection}")),
        ("connecting", gauge("http_pool.connecting", "Connections being opened.", unit="{connection}")),
        ("waiting", gauge("http_pool.waiting", "Requests that wait for a connection.", unit="{request}")),
        ("closed", gauge("http_pool.closed", "Whether it takes no more requests.")),
    ),
    "ClientTLSStatistics": (
        ("generation", counter("client_tls.certificates", "Certificates used, the first included.")),
        ("failures", counter("client_tls.failures", "Times new files could not be used.", unit="{failure}")),
    ),
}

CIRCUIT_STATE: Final = gauge("circuit_breaker.state", "Circuits that are in this state.", "state", unit="{circuit}")
CHECK_STATE: Final = gauge("health.check.state", "Checks that are in this state.", "check", "state", unit="{check}")
CHECK_LATENCY: Final = gauge(
    "health.check.latency", "How long the last check that passed took.", "check", unit="s", combine="max"
)
CHILDREN: Final = gauge("supervisor.children", "Children that are in this state.", "state", unit="{child}")
CHILD_UPTIME: Final = gauge("supervisor.child.uptime", "How long a child has run.", "child", unit="s", combine="min")
CHILD_RESTARTS: Final = counter(
    "supervisor.child.restarts", "Times this child was run again.", "child", unit="{restart}"
)
NESTED: Final = gauge(
    "supervisor.nested", "Supervisors open inside of a child.", "child", "supervisor", unit="{supervisor}"
)
STREAM_STATE: Final = gauge("stream.state", "Streams that are in this state.", "state", unit="{stream}")
PHASE: Final = gauge("shutdown.phase", "Shutdowns that are in this phase.", "phase", unit="{shutdown}")
HTTP_WAITING: Final = gauge("http.held_back", "Requests that wait because of a 429.", unit="{request}")
HTTP_PAUSE: Final = gauge(
    "http.pause_remaining",
    "Time until the last of the origins that sent a 429 is asked again.",
    unit="s",
    combine="max",
)
VALID_UNTIL: Final = gauge(
    "client_tls.valid_until_timestamp", "When the certificate ends, since the epoch.", unit="s", combine="min"
)
_PER_ORIGIN: Final = (
    ("requests", counter("http_pool.requests", "Requests.", unit="{request}")),
    ("opened", counter("http_pool.opened", "Connections opened.", unit="{connection}")),
    ("failed", counter("http_pool.connect_failed", "Connections that could not be opened.", unit="{connect}")),
    ("reclaimed", counter("http_pool.reclaimed", "Responses thrown away without being closed.", unit="{response}")),
)

CHILD_STATES: Final = ("starting", "running", "stopping", "waiting")
STREAM_STATES: Final = ("waiting", "connecting", "connected", "ended")
PHASES: Final = ("serving", "lead", "draining", "cancelled", "ended")


@attrs.frozen
class Figure:
    """One number of one policy."""

    measure: Measure
    value: float
    labels: tuple[str, ...] = ()
    part: str = ""
    """What of the policy it is about, where that is no label: one of several that are added up."""


def figures_of(statistics: Any) -> Iterator[Figure]:
    """Return the figures of a snapshot; none of a snapshot of somebody else's class."""
    if not type(statistics).__module__.startswith("trioresil"):
        return
    kind = type(statistics).__name__
    for field, measure in SIMPLE.get(kind, ()):
        yield Figure(measure, float(getattr(statistics, field)))
    if kind in _NESTED:
        yield from _NESTED[kind](statistics)


def _one_of(measure: Measure, states: tuple[str, ...], state: str, *labels: str) -> Iterator[Figure]:
    for each in states:
        yield Figure(measure, float(each == state), (*labels, each))


def _circuit(statistics: Any) -> Iterator[Figure]:
    return _one_of(CIRCUIT_STATE, tuple(each.value for each in CircuitState), statistics.state.value)


def _health(statistics: Any) -> Iterator[Figure]:
    states = tuple(each.value for each in HealthState)
    for name, check in statistics.checks.items():
        yield from _one_of(CHECK_STATE, states, check.state.value, name)
        if check.latency is not None:
            yield Figure(CHECK_LATENCY, check.latency, (name,))


def _supervisor(statistics: Any) -> Iterator[Figure]:
    found = [child.state for child in statistics.children]
    for state in CHILD_STATES:
        yield Figure(CHILDREN, float(found.count(state)), (state,))
    for child in statistics.children:
        yield Figure(CHILD_UPTIME, child.uptime, (child.name,))
        yield Figure(CHILD_RESTARTS, float(child.restarts), (child.name,))
        for below in child.supervisors:
            yield Figure(NESTED, 1.0, (child.name, below.name))


def _stream(statistics: Any) -> Iterator[Figure]:
    return _one_of(STREAM_STATE, STREAM_STATES, statistics.state)


def _shutdown(statistics: Any) -> Iterator[Figure]:
    return _one_of(PHASE, PHASES, statistics.phase)


def _transport(statistics: Any) -> Iterator[Figure]:
    origins = statistics.origins
    yield Figure(HTTP_WAITING, float(sum(each.waiting for each in origins)))
    yield Figure(HTTP_PAUSE, max((each.paused_for for each in origins), default=0.0))


def _http_pool(statistics: Any) -> Iterator[Figure]:
    for name, origin in statistics.origins.items():
        for field, measure in _PER_ORIGIN:
            yield Figure(measure, float(getattr(origin, field)), part=name)
    if not statistics.origins:
        for _, measure in _PER_ORIGIN:
            yield Figure(measure, 0.0)


def _tls(statistics: Any) -> Iterator[Figure]:
    until: datetime | None = statistics.valid_until
    if until is not None:
        yield Figure(VALID_UNTIL, until.timestamp())


_NESTED: Final[Mapping[str, Callable[[Any], Iterator[Figure]]]] = {
    "CircuitBreakerStatistics": _circuit,
    "SharedCircuitBreakerStatistics": _circuit,
    "HealthMonitorStatistics": _health,
    "SupervisorStatistics": _supervisor,
    "StreamStatistics": _stream,
    "ShutdownStatistics": _shutdown,
    "ResilientTransportStatistics": _transport,
    "PoolTransportStatistics": _http_pool,
    "ClientTLSStatistics": _tls,
}

PULLED: Final[tuple[Measure, ...]] = (
    POLICIES,
    *dict.fromkeys(measure for pairs in SIMPLE.values() for _, measure in pairs),
    *(CIRCUIT_STATE, CHECK_STATE, CHECK_LATENCY, CHILDREN, CHILD_UPTIME, CHILD_RESTARTS, NESTED, STREAM_STATE, PHASE),
    *(HTTP_WAITING, HTTP_PAUSE, *(measure for _, measure in _PER_ORIGIN), VALID_UNTIL),
)
"""Every measure that is read from statistics."""
