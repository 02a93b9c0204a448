"""A request's way through the pool.

A lease (with a slot, if need be after a queue) → the newest idle connection, or a dial → the engine sends it and reads the head →
a response whose body gives the lease back when it is closed. Decisions are synchronous and stand in the Ledger; what waits stands
here. Whatever is raised on the way passes one `except`, which ends the lease.

A request is sent again, once, if a connection that had been used before broke before any byte of a response came: the server may
have closed it just as it was taken. That is safe for an idempotent request (by the user's word, its method or its key), and for
any while no byte was handed to the kernel or where the server says that it did nothing; it is possible only if the body can be
read from its beginning. Over HTTP/1.1 it keeps its lease, and so its place.
"""

from __future__ import annotations

import math
from typing import Any, Final

import trio

from .. import _instruments
from .._events import ConnectFailed, ConnectionOpened
from .._links import mark_started, mark_unstarted
from ._dial import Dialler
from ._engine import Engine
from ._http2 import Multiplexer
from ._judgement import says_idempotent
from ._leases import Connection, Lease, Origin, Slot
from ._ledger import Ledger
from ._report import HEARD_AFTER, CallReport

REFUSED_STREAM: Final = 7
MAX_REFUSALS: Final = 10
"""Times that a request is sent again because the server said that it did nothing for it."""
_NO_TIMEOUTS: Final[dict[str, float | None]] = {}
_REPORTS: Final = (CallReport(reused=False), CallReport(reused=True))


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
    """One request on its way: what the steps share."""

    __slots__ = (
        "attempts",
        "extensions",
        "heard_after",
        "lease",
        "ledger",
        "request",
        "sending",
        "timeouts",
        "upload",
        "worn",
    )

    def __init__(self, request: Any, ledger: Ledger, lease: Lease, byte_stream: type) -> None:
        self.request = request
        self.ledger = ledger
        self.lease = lease
        self.extensions = request.extensions
        self.timeouts = self.extensions.get("timeout", _NO_TIMEOUTS)
        self.upload = request.stream if isinstance(request.stream, byte_stream) else Upload(request.stream)
        self.attempts = 0
        self.heard_after = self.extensions.get(HEARD_AFTER, -math.inf)  # no connection that was silent since then
        self.sending = False
        self.worn = False  # the connection may have been closed by the other side before this request


class RequestPath:
    """Takes requests through the pool.

    Args:
      owner: the transport, for events.
      engine: the protocol engine of its client library.
      tls: where TLS contexts come from.
      dialler: makes streams.
      head_timeout: seconds from a connection to the response's head.
      max_per_origin: slots of an origin.
      http1, http2: which protocols may be spoken.
    """

    def __init__(
        self,
        owner: Any,
        engine: Engine,
        tls: Any,
        dialler: Dialler,
        *,
        head_timeout: float,
        max_per_origin: float,
        http1: bool,
        http2: bool,
    ) -> None:
        self._owner = owner
        self._engine = engine
        self._tls = tls
        self._dialler = dialler
        self._head_timeout = head_timeout
        self._max_per_origin = max_per_origin
        self._only_http2 = http2 and not http1
        self._http2 = http2
        self._byte_stream = engine.library.client.ByteStream

    async def run(self, request: Any, ledger: Ledger, origin: Origin, now: float) -> Any:
        """Take a request through the pool, and return its response."""
        lease = ledger.admit(origin)
        call = Call(request, ledger, lease, self._byte_stream)
        try:
            connection = await self._connection(call, now)
            while True:
                try:
                    return await self._exchange(call, connection)
                except Exception as exc:
                    if not self._may_send_again(call, connection, exc):
                        raise
                connection = await self._another_connection(call)
        except Exception as exc:
            ledger.leave(lease, "discarded")
            error = self._closed(call) if ledger.closing else self._engine.translated(exc)
            if error is None:
                raise
            try:
                raise error from exc
            finally:
                del error  # its traceback holds this frame
        except BaseException as exc:
            if call.sending and _was_sent(lease):
                mark_started(exc)
            else:
                mark_unstarted(exc)
            ledger.leave(lease, "discarded")
            raise

    def _closed(self, call: Call) -> Any:
        """Return the error of a request that the pool was closed under."""
        error = self._engine.library.pool_closed_error(self._owner.name)
        error.started = call.sending
        return error

    # -- a connection ----------------------------------------------------------------------------------------------------

    async def _connection(self, call: Call, now: float) -> Connection:
        ledger, lease = call.ledger, call.lease
        multiplexer: Multiplexer | None = ledger.multiplexer
        if multiplexer is None or not self._may_be_http2(multiplexer, lease.origin):
            assert lease.slot is not None
            if not ledger.take_slot(lease.slot):
                await self._queue(call, None)
                now = trio.current_time()
            return ledger.take_idle(lease, now, call.heard_after) or await self._dial(call)
        multiplexer.distrust(lease.origin, call.heard_after)
        if not multiplexer.enter(lease) or (lease.slot is not None and lease.slot.held < 2):
            await self._queue(call, multiplexer)
        connection = lease.connection
        while connection is None:
            connection = ledger.take_idle(lease, trio.current_time(), call.heard_after) or await self._dial(call)
            if connection.looking and not await multiplexer.look(lease, connection):
                connection = None  # the peer had closed it, or goes away
        multiplexer.dialled(lease, connection)
        return connection

    def _may_be_http2(self, multiplexer: Multiplexer, origin: Origin) -> bool:
        return (origin.encrypted or self._only_http2) and multiplexer.applies_to(origin)

    async def _queue(self, call: Call, multiplexer: Multiplexer | None) -> None:
        """Wait for a slot, or a stream, and for nothing else, as long as the request's pool timeout lets it."""
        ledger, lease = call.ledger, call.lease
        seconds = call.timeouts.get("pool")
        ledger.collect_lost(min(self._max_per_origin, ledger.max_connections))
        lease.origin.waiting += 1
        scope = ledger.pause(seconds)
        try:
            with scope:
                if multiplexer is None:
                    assert lease.slot is not None
                    await ledger.queue_for_slot(lease.slot)
                else:
                    await multiplexer.wait(lease)
        finally:
            lease.origin.waiting -= 1
            ledger.resume(scope)
        if ledger.closing:
            raise self._engine.library.pool_closed_error(self._owner.name)
        if scope.cancelled_caught:
            raise self._engine.core.PoolTimeout(
                f"{self._owner.name}: no connection for {lease.origin.name} came free within {seconds:g} s"
            )

    async def _another_connection(self, call: Call) -> Connection:
        """Return a connection in place of one that broke: over HTTP/1.1 a new one, in the same place."""
        ledger, lease = call.ledger, call.lease
        ledger.part(lease, "stale")
        if lease.slot is not None:
            return await self._dial(call)
        lease.slot, lease.stream = Slot(lease.origin), None  # its place was a stream of what broke
        return await self._connection(call, trio.current_time())

    async def _dial(self, call: Call) -> Connection:
        """Return a new connection, attached to the lease."""
        ledger, lease = call.ledger, call.lease
        origin, seconds = lease.origin, call.timeouts.get("connect")
        connection = None
        ledger.make_room(origin)
        scope = ledger.pause(seconds)
        try:
            with scope:
                connection = await self.open(origin, call.extensions.get("trace"))
            if ledger.closing:
                raise self._engine.library.pool_closed_error(self._owner.name)
            if connection is None:
                raise self._engine.core.ConnectTimeout(f"no connection to {origin.name} within {seconds:g} s")
        except Exception as exc:
            self.note_failure(origin, exc)
            if ledger.multiplexer is not None:
                ledger.multiplexer.dial_failed(lease)
            raise
        finally:
            ledger.resume(scope)
            ledger.dialled(origin, connection, lease)
        return connection

    async def open(self, origin: Origin, trace: Any) -> Connection:
        """Dial an origin, and return a connection that is in no books yet."""
        started = trio.current_time()
        generation = self._tls.generation
        stream = await self._dialler.dial(origin, trace)
        multiplexed = self._only_http2 or (self._http2 and stream.alpn == "h2")
        if multiplexed:
            core = self._engine.http2(self._engine.core, stream)
        else:
            where = self._dialler.origin_on_wire(origin)
            core = self._engine.http11(origin=where, stream=stream, keepalive_expiry=None)
        now = trio.current_time()
        if _instruments.installed:
            _instruments.emit(ConnectionOpened, policy=self._owner, origin=origin.name, seconds=now - started)
        return Connection(origin, core, stream, multiplexed=multiplexed, generation=generation, opened_at=now)

    def note_failure(self, origin: Origin, exc: Exception) -> None:
        """Count a dial that failed, and tell of it."""
        error = self._engine.translated(exc) or exc
        origin.failed += 1
        origin.last_error = error
        if _instruments.installed:
            _instruments.emit(ConnectFailed, policy=self._owner, origin=origin.name, error=error)

    # -- an exchange -----------------------------------------------------------------------------------------------------

    async def _exchange(self, call: Call, connection: Connection) -> Any:
        """Send the request on a connection, and return the response once its head is there."""
        engine = self._engine
        reused = connection.uses > 0
        call.sending = True
        call.worn = reused or connection.rested
        connection.uses += 1
        answer = await self._head(call, connection)
        if connection.multiplexed:
            call.ledger.multiplexer.settle(call.lease)
        told = answer.extensions
        told["trioresil"] = _REPORTS[reused]
        body = engine.body(answer.stream, call.lease, call.ledger, engine)
        return engine.response(status_code=answer.status, headers=answer.headers, stream=body, extensions=told)

    async def _head(self, call: Call, connection: Connection) -> Any:
        stream = connection.stream
        stream.received = stream.wire.sent = False
        request = self._engine_request(call, connection, call.extensions)
        if connection.multiplexed:
            answer = connection.core.handle_async_request(request, call.lease)
        else:
            answer = connection.core.handle_async_request(request)
        if self._head_timeout == math.inf:
            return await answer
        with trio.CancelScope(deadline=trio.current_time() + self._head_timeout):
            return await answer
        raise self._engine.core.ReadTimeout(f"no response head within head_timeout={self._head_timeout:g} s")

    def _engine_request(self, call: Call, connection: Connection, extensions: dict[str, Any]) -> Any:
        request, engine = call.request, self._engine
        target = extensions.get("target") or request.url.raw_path
        headers = request.headers.raw
        origin = connection.origin.core
        if self._dialler.forwards(connection.origin):
            origin, target, headers = self._dialler.forwarded(connection.origin, target, headers)
        return engine.request(
            request.method.encode("ascii"), engine.url(origin, target), headers, call.upload, extensions
        )

    def _may_send_again(self, call: Call, connection: Connection, exc: Exception) -> bool:
        call.attempts += 1
        if not isinstance(exc, self._engine.broken) or (isinstance(call.upload, Upload) and call.upload.begun):
            return False
        if connection.multiplexed:
            event = exc.args[0] if exc.args else None
            refused = getattr(event, "error_code", None) == REFUSED_STREAM
            if refused or isinstance(exc, self._engine.core.ConnectionNotAvailable):
                return call.attempts <= MAX_REFUSALS
        elif connection.stream.received:
            return False
        if call.attempts > 1 or not call.worn:
            return False
        return not _was_sent(call.lease) or says_idempotent(call.request)


def _was_sent(lease: Lease) -> bool:
    """Tell whether any byte of a lease's request may have left."""
    connection = lease.connection
    if connection is None:
        return False
    return lease.stream is not None if connection.multiplexed else bool(connection.stream.wire.sent)
