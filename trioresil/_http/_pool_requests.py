"""A request's way through the pool.

A lease (with a slot, if need be after a queue) → the newest idle connection, or a dial → the engine sends it and reads the head →
a response whose body gives the lease back when it is closed. Decisions are synchronous and stand in the Ledger; what waits stands
here. Whatever is raised on the way passes one `except BaseException`, which ends the lease.

A request is sent again, once, on a new connection and on the same lease, if a connection that had been used before broke
before any byte of a response came: it may have been closed by the server just as it was taken. That is safe for an idempotent
method, for any method while nothing was handed to the kernel or the server says that it did nothing, and possible only if the
body can be read from its beginning.
"""

from __future__ import annotations

import math
from typing import Any, Final

import trio

from .. import _instruments
from .._events import ConnectFailed, ConnectionOpened
from .._links import mark_unstarted
from ._ledger import Connection, Lease, Ledger
from ._report import CallReport

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"})
NO_TIMEOUTS: Final[dict[str, float | None]] = {}
REPORTS: Final = (CallReport(reused=False), CallReport(reused=True))


class Upload:
    """A request body that is no ByteStream: it can be sent once, and knows whether somebody has begun to read it."""

    __slots__ = ("_stream", "begun")

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.begun = False

    def __aiter__(self) -> Any:
        self.begun = True
        return self._stream.__aiter__()


class Call:
    """One request on its way: what the steps share, and what decides whether it may be sent again."""

    __slots__ = (
        "connect_timeout",
        "extensions",
        "lease",
        "ledger",
        "pool_timeout",
        "request",
        "resent",
        "reused",
        "upload",
    )

    def __init__(self, request: Any, ledger: Ledger, lease: Lease, byte_stream: type) -> None:
        self.request = request
        self.ledger = ledger
        self.lease = lease
        self.extensions = request.extensions
        timeouts = self.extensions.get("timeout", NO_TIMEOUTS)
        self.pool_timeout = timeouts.get("pool")
        self.connect_timeout = timeouts.get("connect")
        self.upload = request.stream if isinstance(request.stream, byte_stream) else Upload(request.stream)
        self.reused = False
        self.resent = False


async def run(pool: Any, call: Call, now: float) -> Any:
    """Take a call through the pool, and return its response."""
    ledger, lease = call.ledger, call.lease
    try:
        connection = await _connection(pool, call, now)
        try:
            return await exchange(pool, call, connection)
        except Exception as exc:
            if not _may_send_again(pool, call, connection, exc):
                raise
        call.resent = True
        ledger.part(lease, "stale")
        connection = await _fresh_connection(pool, call)
        return await exchange(pool, call, connection)
    except Exception as exc:
        ledger.leave(lease, "discarded")
        error = pool.engine.translated(exc)
        if error is None:
            raise
        raise error from exc
    except BaseException as exc:
        if lease.connection is None or not was_sent(lease.connection):
            mark_unstarted(exc)
        ledger.leave(lease, "discarded")
        raise


async def _connection(pool: Any, call: Call, now: float) -> Connection:
    ledger, lease = call.ledger, call.lease
    assert lease.slot is not None
    if not ledger.take_slot(lease.slot):
        await _queue(pool, call)
        now = trio.current_time()
    connection = ledger.take_idle(lease, now)
    return await dial(pool, call) if connection is None else connection


async def _fresh_connection(pool: Any, call: Call) -> Connection:
    return await dial(pool, call)


async def exchange(pool: Any, call: Call, connection: Connection) -> Any:
    """Send the request on a connection, and return the response once its head is there."""
    call.reused = connection.uses > 0
    connection.uses += 1
    stream = connection.stream
    stream.received = stream.wire.sent = False
    answer = await _head(pool, call, connection)
    told = answer.extensions
    told["trioresil"] = REPORTS[call.reused]
    body = pool.engine.body(answer.stream, call.lease, call.ledger, pool.engine, None)
    return pool.engine.response(status_code=answer.status, headers=answer.headers, stream=body, extensions=told)


async def _head(pool: Any, call: Call, connection: Connection) -> Any:
    request = _engine_request(pool, call, connection)
    if pool.head_timeout == math.inf:
        return await connection.core.handle_async_request(request)
    with trio.CancelScope(deadline=trio.current_time() + pool.head_timeout):
        return await connection.core.handle_async_request(request)
    raise pool.engine.core.ReadTimeout(f"no response head within head_timeout={pool.head_timeout:g} s")


def _engine_request(pool: Any, call: Call, connection: Connection) -> Any:
    request, engine = call.request, pool.engine
    target = call.extensions.get("target", None) or request.url.raw_path
    url = engine.url(connection.origin.core, target)
    return engine.request(request.method.encode("ascii"), url, request.headers.raw, call.upload, call.extensions)


def was_sent(connection: Connection) -> bool:
    """Tell whether any byte of the last request on an HTTP/1.1 connection may have left."""
    return bool(connection.stream.wire.sent)


def _may_send_again(pool: Any, call: Call, connection: Connection, exc: Exception) -> bool:
    if not call.reused or not isinstance(exc, pool.engine.broken) or connection.stream.received:
        return False
    if isinstance(call.upload, Upload) and call.upload.begun:
        return False
    return call.request.method in IDEMPOTENT or not was_sent(connection)


async def _queue(pool: Any, call: Call) -> None:
    """Wait for a slot, and for nothing else, as long as the request's pool timeout lets it."""
    ledger, lease, timeout = call.ledger, call.lease, call.pool_timeout
    assert lease.slot is not None
    ledger.collect_lost(min(pool.max_per_origin, ledger.max_connections))
    lease.origin.waiting += 1
    scope = ledger.pause(timeout)
    try:
        with scope:
            await ledger.queue_for_slot(lease.slot)
    finally:
        lease.origin.waiting -= 1
        ledger.resume(scope)
    if ledger.closing:
        raise pool.closed_error()
    if scope.cancelled_caught:
        raise pool.engine.core.PoolTimeout(
            f"{pool.name}: no connection for {lease.origin.name} came free within {timeout:g} s"
        )


async def dial(pool: Any, call: Call) -> Connection:
    """Return a new connection, attached to the lease."""
    ledger, lease, timeout = call.ledger, call.lease, call.connect_timeout
    connection = None
    ledger.make_room(lease.origin)
    scope = ledger.pause(timeout)
    try:
        with scope:
            connection = await open_connection(pool, lease.origin, call.extensions.get("trace"))
        if connection is None and not ledger.closing:
            raise pool.engine.core.ConnectTimeout(f"no connection to {lease.origin.name} within {timeout:g} s")
        if ledger.closing:
            raise pool.closed_error()
    except Exception as exc:
        dial_failed(pool, lease.origin, exc)
        raise
    finally:
        ledger.resume(scope)
        ledger.dialled(lease.origin, connection, lease)
    assert connection is not None
    return connection


async def open_connection(pool: Any, origin: Any, trace: Any) -> Connection:
    """Dial, and return the connection, which is in no books yet."""
    started = trio.current_time()
    generation = pool.tls.generation
    stream = await pool.dialler.dial(origin, trace)
    connection = pool.make_connection(origin, stream, generation)
    if _instruments.installed:
        took = connection.opened_at - started
        _instruments.emit(ConnectionOpened, policy=pool, origin=origin.name, seconds=took)
    return connection


def dial_failed(pool: Any, origin: Any, exc: Exception) -> None:
    """Note a dial that failed."""
    error = pool.engine.translated(exc) or exc
    origin.failed += 1
    origin.last_error = error
    if _instruments.installed:
        _instruments.emit(ConnectFailed, policy=pool, origin=origin.name, error=error)
