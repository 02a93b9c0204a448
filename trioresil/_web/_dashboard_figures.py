"""The figures of the live page: what `.statistics()` says, as plain values fit for JSON, and what of it is drawn over time.

The law of this file:

1. Pure: no clock, no Trio. What a policy says goes in, a flat dict comes out; the same state gives an equal dict, so that only
   what changed is sent.
2. Nothing that a program put there passes as it is: texts go through the redaction, resume tokens and results are left out.
3. Every list is bounded, and says how many it leaves out.

Kinds are found by the name of the statistics' class, so that nothing is imported for a policy that nobody uses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from .._redaction import one_line, safe_error, safe_repr

Figures: TypeAlias = dict[str, Any]

MAX_ROWS: Final = 50
MAX_DEPTH: Final = 8
STATE_CODES: Final = {"closed": 0, "half-open": 1, "open": 2, "isolated": 3}


def plain(value: float) -> float | str | None:
    """Return a number fit for JSON, with four digits after the point; infinity is a word, and what is no number is None."""
    if isinstance(value, int):
        return value
    if math.isnan(value):
        return None
    return "inf" if value == math.inf else round(value, 4)


def _gauge(each: Any) -> Figures:
    found = {"what": one_line(each.what), "value": plain(each.value), "limit": plain(each.limit)}
    needs = {"needs": each.min_calls} if each.calls is not None and each.calls < (each.min_calls or 0) else {}
    return found | ({} if each.calls is None else {"calls": each.calls}) | needs


# --- one reader for each kind ------------------------------------------------------------------------------------------


def _numbers(statistics: Any, *names: str) -> Figures:
    return {name: plain(getattr(statistics, name)) for name in names}


def _error(error: BaseException | None) -> str | None:
    return None if error is None else safe_error(error)


def _circuit(statistics: Any, policy: Any) -> Figures:
    gauges = statistics.gauges[:MAX_ROWS]
    shares = [each.value / each.limit for each in gauges if each.limit]
    return {
        "state": statistics.state.value,
        "trip": one_line(statistics.trip),
        "gauges": [_gauge(each) for each in gauges],
        "band": STATE_CODES.get(statistics.state.value, 0),
        "nearness": round(max(shares, default=0.0), 4),
        "enforced": statistics.enforced,
        **_numbers(statistics, "isolations", "remaining", "level", "probes_out", "inside", "opened", "rejected"),
    }


def _bulkhead(statistics: Any, policy: Any) -> Figures:
    return {"closed": statistics.closed} | _numbers(statistics, "limit", "inside", "borrowed", "waiting", "rejected")


def _bucket(statistics: Any, policy: Any) -> Figures:
    names = ("tokens", "capacity", "waiting", "waiting_tokens", "paused_for", "granted", "rejected")
    return {"refill": plain(statistics.rate)} | _numbers(statistics, *names)


def _retry(statistics: Any, policy: Any) -> Figures:
    budget = getattr(policy, "budget", None)
    spent = None if budget is None else _numbers(budget.statistics(), "available", "withdrawn", "refused")
    return {"max_attempts": plain(statistics.max_attempts), "budget": spent}


def _timeout(statistics: Any, policy: Any) -> Figures:
    return {"seconds": plain(statistics.seconds)}


def _fallback(statistics: Any, policy: Any) -> Figures:
    names = [one_line(each) for each in statistics.alternatives[:MAX_ROWS]]
    return {"alternatives": names, "has_default": statistics.has_default}


def _keyed(statistics: Any, policy: Any) -> Figures:
    return _numbers(statistics, "keys", "made")


def _pipeline(statistics: Any, policy: Any) -> Figures:
    parts = [one_line(str(getattr(each, "name", type(each).__name__))) for each in statistics.parts[:MAX_ROWS]]
    return {"parts": parts}


def _pool(statistics: Any, policy: Any) -> Figures:
    names = (
        "max_size",
        "leased",
        "idle",
        "connecting",
        "closing",
        "waiting",
        "opened",
        "reused",
        "connect_failed",
        "rejected",
    )
    return {"closed": statistics.closed, "last_error": _error(statistics.last_error)} | _numbers(statistics, *names)


def _transport_pool(statistics: Any, policy: Any) -> Figures:
    rows = [
        {"name": one_line(origin), "error": _error(each.last_error)}
        | _numbers(each, "in_use", "idle", "waiting", "requests", "failed")
        for origin, each in _first(statistics.origins.items())
    ]
    found = _numbers(statistics, "max_connections", "open", "in_use", "idle", "connecting", "waiting", "requests")
    return found | {"closed": statistics.closed, "rows": rows, "more": max(0, len(statistics.origins) - MAX_ROWS)}


def _transport(statistics: Any, policy: Any) -> Figures:
    rows = [
        {
            "name": one_line(each.origin),
            "state": None if each.breaker is None else each.breaker.state.value,
            "inside": None if each.bulkhead is None else plain(each.bulkhead.inside),
            "tokens": None if each.bucket is None else plain(each.bucket.tokens),
            **_numbers(each, "waiting", "paused_for"),
        }
        for each in statistics.origins[:MAX_ROWS]
    ]
    found = {"closed": statistics.closed} | _numbers(statistics, "inside", "requests", "retries")
    return found | {"rows": rows, "more": max(0, len(statistics.origins) - MAX_ROWS)}


def _certificate(statistics: Any, policy: Any) -> Figures:
    until = statistics.valid_until
    found = {"valid_until": None if until is None else until.isoformat(), "last_error": _error(statistics.last_error)}
    return found | _numbers(statistics, "generation", "failures")


def _workers(statistics: Any, policy: Any) -> Figures:
    names = ("workers", "busy", "delivering", "queued", "sending", "accepted", "succeeded", "failed")
    more = ("unfinished", "undelivered", "rejected")
    found = {"closed": statistics.closed, "last_error": _error(statistics.last_error)}
    return found | _numbers(statistics, *names, *more)


def _map(statistics: Any, policy: Any) -> Figures:
    names = ("workers", "busy", "taken", "succeeded", "failed", "unfinished", "unread", "read")
    return {"last_error": _error(statistics.last_error)} | _numbers(statistics, *names)


def _stream(statistics: Any, policy: Any) -> Figures:  # not `resume`: a token may be a secret
    names = ("sessions", "received", "delivered", "dropped", "buffered", "outgoing")
    found = {"state": statistics.state, "last_error": _error(statistics.last_error)}
    return found | _numbers(statistics, *names)


def _supervisor(statistics: Any, policy: Any, depth: int = 0) -> Figures:
    children = [_child(each, depth) for each in statistics.children[:MAX_ROWS]]
    found = {"strategy": statistics.strategy, "closed": statistics.closed, "last_error": _error(statistics.last_error)}
    found |= {"children": children, "more": max(0, len(statistics.children) - MAX_ROWS)}
    return found | _numbers(statistics, "restarts", "ended")


def _child(child: Any, depth: int) -> Figures:
    below = child.supervisors[:MAX_ROWS] if depth < MAX_DEPTH else ()
    return {
        "name": one_line(child.name),
        "state": child.state,
        "restart": child.restart,
        "restarts": child.restarts,
        "uptime": int(child.uptime),
        "last_error": _error(child.last_error),
        "below": [{"name": one_line(each.name), **_supervisor(each, None, depth + 1)} for each in below],
    }


def _health(statistics: Any, policy: Any) -> Figures:
    rows = [
        {
            "name": one_line(name),
            "state": each.state.value,
            "critical": each.critical,
            "group": None if each.group is None else one_line(each.group),
            "error": _error(each.error),
            "consecutive": each.consecutive,
            "since": plain(each.since),
            "latency": None if each.latency is None else plain(each.latency),
            "p50": None if each.latency_p50 is None else plain(each.latency_p50),
            "p99": None if each.latency_p99 is None else plain(each.latency_p99),
        }
        for name, each in _first(statistics.checks.items())
    ]
    words = {name: getattr(statistics, name) for name in ("healthy", "draining", "running")}
    passing = sum(each.healthy for each in statistics.checks.values())
    found = {"rows": rows, "more": max(0, len(statistics.checks) - MAX_ROWS), "passing": passing}
    return words | found | {"checks": len(statistics.checks)} | _numbers(statistics, "missed")


def _shutdown(statistics: Any, policy: Any) -> Figures:
    reason = None if statistics.reason is None else one_line(statistics.reason)
    found = {"phase": statistics.phase, "reason": reason}
    return found | _numbers(statistics, "signals", "registered", "running", "closes_at", "cancels_at")


def _other(statistics: Any, policy: Any) -> Figures:
    fields = getattr(type(statistics), "__attrs_attrs__", None)
    if fields is None:
        return {"told": None if statistics is None else safe_repr(statistics)}
    values = {each.name: getattr(statistics, each.name) for each in fields[:MAX_ROWS] if each.name != "name"}
    return {name: _scalar(value) for name, value in values.items()}


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return plain(value)
    return one_line(value) if isinstance(value, str) else safe_repr(value)


def _first(items: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [item for item, _ in zip(items, range(MAX_ROWS), strict=False)]


Reader: TypeAlias = Callable[[Any, Any], Figures]

_KINDS: Final[dict[str, tuple[str, Reader, tuple[str, ...]]]] = {
    # name of the statistics: kind, reader, figures that are drawn over time
    "CircuitBreakerStatistics": ("circuit", _circuit, ("band", "nearness")),
    "SharedCircuitBreakerStatistics": ("circuit", _circuit, ("band", "nearness")),
    "BulkheadStatistics": ("limit", _bulkhead, ("inside", "waiting")),
    "TokenBucketStatistics": ("bucket", _bucket, ("tokens", "waiting")),
    "RetryStatistics": ("retry", _retry, ("rate",)),
    "TimeoutStatistics": ("timeout", _timeout, ("rate",)),
    "FallbackStatistics": ("fallback", _fallback, ("rate",)),
    "KeyedStatistics": ("keyed", _keyed, ("keys",)),
    "PipelineStatistics": ("pipeline", _pipeline, ("rate", "bad_rate")),
    "PoolStatistics": ("pool", _pool, ("leased", "waiting")),
    "PoolTransportStatistics": ("http-pool", _transport_pool, ("in_use", "waiting")),
    "ResilientTransportStatistics": ("http", _transport, ("inside", "rate")),
    "ClientTLSStatistics": ("certificate", _certificate, ()),
    "WorkersStatistics": ("workers", _workers, ("busy", "queued")),
    "ConcurrentMapStatistics": ("map", _map, ("busy", "unread")),
    "StreamStatistics": ("stream", _stream, ("buffered", "rate")),
    "SupervisorStatistics": ("supervisor", _supervisor, ("rate",)),
    "HealthMonitorStatistics": ("health", _health, ("passing",)),
    "ShutdownStatistics": ("shutdown", _shutdown, ()),
}
_OTHER: Final[tuple[str, Reader, tuple[str, ...]]] = ("other", _other, ("rate",))
KINDS: Final = (*dict.fromkeys(kind for kind, _, _ in _KINDS.values()), "other")


def describe(statistics: Any) -> tuple[str, Reader, tuple[str, ...]]:
    """Return the kind of a policy, what reads its statistics, and the names of the figures that are drawn over time."""
    found = type(statistics)
    ours = found.__module__.partition(".")[0] == "trioresil"
    return _KINDS.get(found.__name__, _OTHER) if ours else _OTHER
