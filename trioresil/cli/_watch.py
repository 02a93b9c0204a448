"""`trioresil watch` without its looks: asks the targets through a health monitor, and knows when it is over.

The monitor decides what a target's state is. What is added here is the history of each target, which results end the watch, and
that somebody is told of every check. A check reports that it has ended; by the time the report is read the monitor has recorded
the outcome, as it does so in the step in which the check ends.
"""

from __future__ import annotations

import math
import os
import random
import re
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Protocol

import attrs
import httpx
import trio

from .._errors import CheckFailedError, TimedOutError, in_seconds
from .._events import HealthStatus
from .._kernel.health import HealthState, what_lacks
from .._redaction import one_line, safe_error
from .._services.checks import check_dns, check_tcp, check_tls
from .._services.health import HealthMonitor, open_health_monitor
from ..httpx import check_http, open_client
from ._causes import causes, not_reached
from ._targets import Target, Targets

KEPT: Final = 200
"""Results of each target that are kept for its sparkline."""
SPREAD: Final = 0.02
"""Seconds between the first checks of two targets, so that many of them don't start in the same instant."""

Check = Callable[[], Awaitable[object]]


@attrs.frozen(kw_only=True)
class Result:
    """What came of one check."""

    at: datetime
    passed: bool
    seconds: float
    previous: HealthState


class Watched:
    """One target: what is known about it."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.results: deque[Result] = deque(maxlen=KEPT)
        self.checks = 0
        self.status: HealthStatus | None = None  # none before the first check has ended
        self.days_left: float | None = None
        self.since_utc: datetime | None = None

    @property
    def state(self) -> HealthState:
        return HealthState.UNKNOWN if self.status is None else self.status.state

    @property
    def error(self) -> str | None:
        """What the last failure said, for people; none once all is well."""
        error = None if self.status is None else self.status.error
        return None if error is None else explained(error)


class Watching:
    """All targets, and whether the whole is healthy."""

    def __init__(self, targets: Targets) -> None:
        self.watched = [Watched(target) for target in targets.targets]
        self.need = targets.need
        self.began_at = 0.0
        self.page_url: str | None = None
        self.over: str | None = None

    @property
    def healthy(self) -> bool:
        members = (
            (each.target.name, each.state.is_healthy, each.target.critical, each.target.group) for each in self.watched
        )
        return not what_lacks(members, self.need)


class Display(Protocol):
    """Who is told of what happens."""

    async def run(self, watching: Watching, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Show it until cancelled."""

    def checked(self, watched: Watched, result: Result) -> None:
        """Take note of a check that has ended."""

    async def close(self, watching: Watching) -> None:
        """Show how it ended."""


async def watch(
    watching: Watching,
    display: Display,
    *,
    count: int | None = None,
    until_healthy: bool = False,
    serve: Callable[[HealthMonitor], Any] | None = None,
) -> None:
    """Ask the targets until what was asked for has come true; for ever if nothing was. `watching.over` says why it ended.

    Args:
      watching: what to watch.
      display: who is told.
      count (int >= 1): each target is asked so often.
      until_healthy (bool): it is over as soon as the whole is healthy.
      serve: gives, for the monitor, an `async with` that shows it to others, and has a `url`.
    """
    async with AsyncExitStack() as stack:
        checks = [await stack.enter_async_context(_Checking(each.target)) for each in watching.watched]
        chance = _Soon()
        monitor = await stack.enter_async_context(
            open_health_monitor(rng=chance, need=watching.need, name="trioresil watch")
        )
        if serve is not None:
            page = await stack.enter_async_context(serve(monitor))
            watching.page_url = page.url
        watching.began_at = trio.current_time()
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(partial(display.run, watching))
        ended, endings = trio.open_memory_channel[_Ending](math.inf)
        for index, (each, check) in enumerate(zip(watching.watched, checks, strict=True)):
            chance.share = min(1.0, index * SPREAD / each.target.interval)
            _start(monitor, each, partial(_report, each, check, ended))
        chance.share = None
        async for ending in endings:
            if count is not None and ending.watched.checks >= count:
                continue  # a check that had begun before the monitor was told to ask no more
            _take(monitor, ending, display)
            if until_healthy and watching.healthy:
                watching.over = "healthy"
                break
            if count is not None and _is_done(monitor, ending.watched, watching, count):
                watching.over = "count"
                break
        nursery.cancel_scope.cancel(reason="the watch is over")


def _start(monitor: HealthMonitor, watched: Watched, check: Check) -> None:
    target = watched.target
    monitor.watch(
        target.name,
        check,
        interval=target.interval,
        timeout=target.timeout,
        rise=target.rise,
        fall=target.fall,
        degraded_above=target.degraded_above,
        critical=target.critical,
        group=target.group,
    )


@attrs.frozen(kw_only=True)
class _Ending:
    watched: Watched
    passed: bool
    seconds: float


async def _report(watched: Watched, check: Check, ended: trio.MemorySendChannel[_Ending]) -> object:
    """Be a target's check, and report its end, be it by a time-out."""
    began_at = trio.current_time()
    passed = False
    try:
        found = await check()
        passed = True
        if watched.target.scheme == "tls" and isinstance(found, float):
            watched.days_left = found
        return None
    finally:
        ended.send_nowait(_Ending(watched=watched, passed=passed, seconds=trio.current_time() - began_at))


def _take(monitor: HealthMonitor, ending: _Ending, display: Display) -> None:
    watched = ending.watched
    now, previous = datetime.now(UTC), watched.state
    watched.checks += 1
    watched.status = monitor[watched.target.name]
    if watched.since_utc is None or watched.state is not previous:
        watched.since_utc = now
    latency = watched.status.latency if ending.passed else None
    seconds = ending.seconds if latency is None else latency
    result = Result(at=now, passed=ending.passed, seconds=seconds, previous=previous)
    watched.results.append(result)
    display.checked(watched, result)


def _is_done(monitor: HealthMonitor, watched: Watched, watching: Watching, count: int) -> bool:
    """Ask a target no more that was asked often enough; tell whether that is so for all."""
    if watched.checks >= count:
        monitor.unwatch(watched.target.name)
    return all(each.checks >= count for each in watching.watched)


class _Soon(random.Random):
    """Chance, but for the first check of each target: who has typed a command waits for it."""

    share: float | None = 0.0

    def random(self) -> float:
        return super().random() if self.share is None else min(self.share, 0.999)


# --- checks --------------------------------------------------------------------------------------------------------------


class _Checking:
    """A target's check, with the client that it needs, as an `async with`.

    The client makes one attempt, on a connection of its own: a connection that is kept would not notice that no new one can be
    made, and a circuit would hide what is wrong behind its own error.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._client: Any = None

    async def __aenter__(self) -> Check:
        target = self._target
        if target.scheme == "tcp":
            assert target.port is not None
            return check_tcp(target.host, target.port)
        if target.scheme == "dns":
            return check_dns(target.host)
        context = trust(target.ca_file)
        if target.scheme == "tls":
            port = target.port or 443
            return check_tls(target.host, port, min_days_left=target.min_days_left, ssl_context=context)
        self._client = open_client(
            retry=None,
            breaker=None,
            headers={"user-agent": "trioresil-watch", **target.headers},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            total_timeout=math.inf,
            attempt_timeout=math.inf,
            verify=context,
        )
        client = await self._client.__aenter__()
        body = None if target.contains is None else partial(_contains, target.contains.encode())
        return check_http(client, target.url, expect_status=target.expect_status, body=body)

    async def __aexit__(self, *details: Any) -> None:
        if self._client is not None:
            await self._client.__aexit__(*details)


def _contains(wanted: bytes, body: bytes) -> bool:
    return wanted in body


_contexts: dict[str | None, ssl.SSLContext] = {}


def trust(ca_file: str | None) -> ssl.SSLContext:
    """Return whom to trust: the system's authorities, or those of a file. OSError if that can't be read (ssl.SSLError is one)."""
    if ca_file not in _contexts:
        named = os.environ.get("SSL_CERT_FILE") if ca_file is None else None
        if named:
            os.stat(named)  # ssl would trust nobody then, and say nothing
        _contexts[ca_file] = ssl.create_default_context(cafile=ca_file)
    return _contexts[ca_file]


# --- errors --------------------------------------------------------------------------------------------------------------


_OPENSSL: Final = re.compile(r"\[[^\]]*\] | \(_ssl\.c:\d+\)")
"""Where the texts of OpenSSL and of the system say which part of them they come from."""


def explained(error: BaseException) -> str:
    """Return why a check failed, on one line without secrets: the innermost cause that says anything."""
    if isinstance(error, CheckFailedError):
        return one_line(_OPENSSL.sub("", error.reason))
    if isinstance(error, TimedOutError):
        return f"no answer within {in_seconds(error.seconds)}"
    cause = _root(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return one_line(f"the certificate is refused: {cause.verify_message}")
    if isinstance(cause, ssl.SSLError):
        return one_line(f"the handshake broke off: {_OPENSSL.sub('', str(cause))}")
    if isinstance(cause, socket.gaierror):
        return one_line(str(cause.strerror))
    if isinstance(cause, OSError) and cause.errno:
        asked = not_reached(error) or ""
        proxy = f"no connection to {asked}: " if asked.startswith("the proxy") else ""
        return one_line(proxy + os.strerror(cause.errno))
    if isinstance(cause, httpx.RemoteProtocolError) and not str(cause).startswith("Server disconnected"):
        return one_line(f"the answer is not valid HTTP: {cause}")
    if isinstance(cause, httpx.HTTPError) and str(cause):
        return one_line(_OPENSSL.sub("", str(cause)).replace("certificate verify failed", "the certificate is refused"))
    return safe_error(cause)


def _root(error: BaseException) -> BaseException:
    kinds = (OSError, httpx.HTTPError, trio.BrokenResourceError)
    return next((each for each in reversed([*causes(error)]) if isinstance(each, kinds)), error)


def facts(watched: Watched, result: Result) -> dict[str, Any]:
    """Return what is known after a check, for JSON. Times are in seconds or in UTC."""
    status = watched.status
    assert status is not None
    found = {
        "type": "check",
        "at": _iso(result.at),
        "target": watched.target.name,
        "state": status.state.value,
        "previous": result.previous.value,
        "healthy": status.healthy,
        "passed": result.passed,
        "seconds": round(result.seconds, 6),
        "p50": _rounded(status.latency_p50),
        "p99": _rounded(status.latency_p99),
        "since": _iso(watched.since_utc or result.at),
        "consecutive": status.consecutive,
        "error": watched.error,
    }
    if watched.target.scheme == "tls":
        found["days_left"] = _rounded(watched.days_left)
    return found


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
