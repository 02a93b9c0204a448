"""ResilientTransport: policies around any transport.

The order of the layers, outermost first: total time-out, retry, circuit, bulkhead, bucket or gate, attempt time-out, transport.
No layer is a scope of its own but where somebody waits: each queue stands in a scope that ends with the total, each attempt
in one that ends with the nearer of the two deadlines. So a request that meets no queue and no failure pays for one.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Awaitable, Callable, Iterable
from types import EllipsisType, TracebackType
from typing import Any, ClassVar, Final

import attrs
import trio
from trio import CancelScope, current_effective_deadline, current_time
from trio.lowlevel import ParkingLot, cancel_shielded_checkpoint, checkpoint_if_cancelled

from .. import _instruments
from .._checks import seconds, text
from .._errors import RejectedError
from .._events import TimedOut
from .._kernel.backoff import exponential
from .._kernel.circuit import Ticket
from .._links import check_cancelled, not_let_in
from .._notes import raise_again
from .._policies.bulkhead import Bulkhead
from .._policies.circuit_breaker import CircuitBreaker
from .._policies.retry import Retry, _note_cancelled, quickened
from .._policies.timeout import Timeout, _passed
from .._policies.token_bucket import TokenBucket
from .._retry_budget import RetryBudget
from ..abc import Drainable
from ._bodies import close, drain, held_body_class, is_form_of_bytes, watched_body_class
from ._course import Course
from ._edge_errors import EdgeTimeout, to_edge, was_connecting
from ._judgement import PUSHED_BACK, TRANSIENT, UNAVAILABLE, Judge, is_failing
from ._library import Library
from ._options import EXTENSION, Settings, settings_of
from ._origin_policies import Origin, Origins, OriginStatistics, PerOrigin, default_breaker
from ._report import CallReport

FOREIGN: Final = CallReport()
MAX_HINT: Final = 60.0
Passed = tuple[bool | None, Iterable[str]]


@attrs.frozen(kw_only=True)
class ResilientTransportStatistics:
    """Snapshot of a ResilientTransport."""

    name: str
    """Its name."""
    inside: int
    """Requests that wait for their answer; with a transport that can't be drained, bodies being read too."""
    requests: int
    """Requests so far."""
    retries: int
    """Attempts after the first, so far."""
    closed: bool
    """Whether admission is closed."""
    origins: tuple[OriginStatistics, ...]
    """What is known of each origin, as far as it is remembered."""


class ResilientTransport:
    """Puts policies around any transport of the client library: time-outs, retries, circuits, bulkheads and rate limits.

    It knows HTTP: which answers and errors are worth another attempt, for which methods; that an answer must be closed before
    the next is asked for; what Retry-After means. What leaves it is the client library's own error as well as trioresil's. For
    a client with all of it and a pool, see `open_client`; for calls that are no HTTP, see Pipeline.

    Synopsis::

        transport = ResilientTransport(httpx.AsyncHTTPTransport(), total_timeout=20, bulkhead=lambda origin: Bulkhead(10))
        async with httpx.AsyncClient(transport=transport) as client:
            response = await client.get(url)
            response.extensions["trioresil"].attempts

    Layers, outermost first: total time-out, retry, circuit, bulkhead, bucket, attempt time-out, transport. So queues here count
    for the total only, and the transport's own queue for both. Time-outs cover the head of an answer and never cut a body.
    A redirect, and each round of an authentication, is a request of its own.

    Per origin: `breaker`, `bulkhead` and `bucket` are functions that make an origin's policy, called with the origin as
    "https://host:port" (without a default port), or a Keyed, which the user keeps to isolate a circuit or to read statistics. A
    single policy would be shared by all origins, and is refused. None, from the function too: without this layer.

    Sharing: one object for any number of tasks, in one run at a time.

    Args:
      transport (AsyncBaseTransport of the client library): what sends.
      retry (Retry, or None): attempts, backoff, budget, max_hint, rng and name are taken from it. Its `on` and `on_result` are
        asked in addition to what HTTP allows: both must agree. Its `delay_hint` goes before Retry-After. Default: 3 attempts,
        exponential(0.2, max=5) with full jitter, a RetryBudget of this transport.
      breaker ((origin) -> CircuitBreaker, or a Keyed, or None): one whose `on` or `on_result` is left at its default is judged
        by `failed`. Default: FailureRatio(0.5, window=30, min_calls=20), open for 5 s and, each time it re-opens, twice as long,
        up to 60 s.
      bulkhead ((origin) -> Bulkhead, or a Keyed, or None): an answer counts until its body is closed. Default: none.
      bucket ((origin) -> TokenBucket, or a Keyed, or None): each attempt takes a token, or `cost(request)` tokens. A 429 with
        Retry-After pauses it. Default: none; a 429 then holds all requests to its origin back for so long.
      total_timeout (float, seconds, > 0, or math.inf): bounds all attempts, their queues and the waits between. Default: 30.
      attempt_timeout (float, seconds, > 0, or math.inf): bounds each attempt. Default: 10.
      body_timeout (float, seconds, > 0, or math.inf): bounds the reading of a body, from the moment its head is there.
        Default: math.inf.
      deadline_header (str): name of a header in which the seconds left for an attempt are sent. Default: none is.
      attempt_header (str): name of a header in which the number of the attempt is sent, from 1. Default: none is.
      name (str): its name in errors, events and statistics. Default: "http".

    Cancellation: checks for cancellation before anything is sent, and is otherwise as much of a checkpoint as the transport. A
    cancelled request gives back its permit and its place in the circuit at once, and closes what it was answered.

    Raises:
      CircuitOpenError, CircuitIsolatedError: the origin's circuit is open.
      BulkheadFullError, RateLimitedError: the origin's limits refused.
      TimedOutError: the total or an attempt took too long.
      PoolClosedError: admission is closed.
    """

    _library: ClassVar[Library]
    _judge: ClassVar[Judge]

    def __init__(
        self,
        transport: Any,
        *,
        retry: Retry | EllipsisType | None = ...,
        breaker: PerOrigin[CircuitBreaker] | EllipsisType = ...,
        bulkhead: PerOrigin[Bulkhead] = None,
        bucket: PerOrigin[TokenBucket] = None,
        total_timeout: float = 30.0,
        attempt_timeout: float = 10.0,
        body_timeout: float = math.inf,
        deadline_header: str | None = None,
        attempt_header: str | None = None,
        name: str = "http",
    ) -> None:
        self.name: str = text("name", name)
        self._transport = self._check_transport(transport)
        self._origins = Origins(
            breaker=default_breaker if breaker is ... else breaker, bulkhead=bulkhead, bucket=bucket
        )
        self._settings = Settings(
            total_timeout=seconds("total_timeout", total_timeout, zero=False),
            attempt_timeout=seconds("attempt_timeout", attempt_timeout, zero=False),
            body_timeout=seconds("body_timeout", body_timeout, zero=False),
            retry=self._default_retry() if retry is ... else _check_retry(retry),
        )
        self._total = Timeout(total_timeout, name=f"{name}-total-timeout")
        self._attempt = Timeout(attempt_timeout, name=f"{name}-attempt-timeout")
        self._body = Timeout(body_timeout, name=f"{name}-body-timeout")
        self._deadline_header = None if deadline_header is None else text("deadline_header", deadline_header)
        self._attempt_header = None if attempt_header is None else text("attempt_header", attempt_header)
        self._stamps = deadline_header is not None or attempt_header is not None
        self._byte_stream: Any = self._library.client.ByteStream
        self._counts_bodies = not isinstance(transport, Drainable)
        self._closed = False
        self._inside = 0
        self._requests = 0
        self._retries = 0
        self._drained = ParkingLot()

    def _check_transport(self, transport: Any) -> Any:
        client = self._library.client
        if not isinstance(transport, client.AsyncBaseTransport):
            raise TypeError(f"transport must be an {self._library.name}.AsyncBaseTransport, not {transport!r}")
        return transport

    def _beside(self, transport: Any) -> Any:
        """Return one like this, around another transport, that shares all policies with this."""
        other = copy.copy(self)
        other._transport = self._check_transport(transport)
        other._counts_bodies = not isinstance(transport, Drainable)
        other._inside = other._requests = other._retries = 0
        other._drained = ParkingLot()
        return other

    def _default_retry(self) -> Retry:
        judge = self._judge
        return Retry(
            on=judge.may_be_sent_again,
            on_result=judge.may_be_sent_again,
            delay_hint=judge.seconds_asked,
            max_attempts=3,
            backoff=exponential(0.2, max=5.0),
            budget=RetryBudget(),
            name=f"{self.name}-retry",
        )

    # -- as a transport --------------------------------------------------------------------------------------------------

    async def handle_async_request(self, request: Any) -> Any:
        """Send one request, and return its answer."""
        settings, extensions = self._settings, request.extensions
        if EXTENSION in extensions:
            settings = settings_of(extensions[EXTENSION], settings)
        try:
            await checkpoint_if_cancelled()
        except BaseException as exc:
            not_let_in(exc)
            raise
        if _instruments.installed:
            _instruments.announce(self)
        if self._closed:
            await _instruments.reject(self, self._library.pool_closed_error(self.name))
        url = request.url
        origin = self._origins[f"{url.scheme}://{url.netloc.decode('ascii')}"]
        self._inside += 1
        self._requests += 1
        try:
            if type(request.stream) is self._byte_stream:
                return await self._send(request, origin, settings, True)
            return await self._send_watched(request, origin, settings)
        finally:
            self._leave()

    async def _send_watched(self, request: Any, origin: Origin, settings: Settings) -> Any:
        """Send a request whose body may be readable only once: it is sent again only while nobody has begun to read it."""
        stream = request.stream
        if is_form_of_bytes(stream):
            return await self._send(request, origin, settings, True)
        request.stream = watched = watched_body_class(self._library)(stream)
        try:
            return await self._send(request, origin, settings, watched)
        finally:
            request.stream = stream

    async def _send(self, request: Any, origin: Origin, settings: Settings, body: Any) -> Any:
        retry = settings.retry
        if retry is not None and retry.budget is not None:
            retry.budget.deposit()
        deadline = current_time() + settings.total_timeout
        error = None
        try:
            response = await self._attempted(request, origin, settings, deadline, None)
        except Exception as exc:
            error, response = exc, None
        except BaseException as exc:
            if retry is not None:
                _note_cancelled(retry, exc, 1, None)
            raise
        else:
            if retry is None or response.status_code not in TRANSIENT:
                return self._reported(response)
        try:
            if retry is None or self._is_total(error, deadline):
                assert error is not None
                raise_again(error)
            queues = origin.bucket is not None and bool(_tokens(origin.bucket, request, settings))
            course = Course(self._judge, retry, request, deadline, bucket=queues)
            return await self._rerun(request, origin, settings, deadline, course, body, error, response)
        finally:
            del error  # its traceback holds this frame

    async def _rerun(
        self,
        request: Any,
        origin: Origin,
        settings: Settings,
        deadline: float,
        course: Course,
        body: Any,
        error: Exception | None,
        response: Any,
    ) -> Any:
        try:
            while True:
                try:
                    replayable = body is True or not body.begun
                    wake_at = course.next_instant(error, response, replayable=replayable)
                except BaseException:
                    if response is not None:
                        await close(response)
                    raise
                if wake_at is None:
                    return self._reported(course.conclude(self._library), course)
                await self._put_away(course, request, response, deadline)
                await self._wait(course, wake_at, settings, deadline)
                self._retries += 1
                error = None
                try:
                    response = await self._attempted(request, origin, settings, deadline, course)
                except Exception as exc:
                    error, response = exc, None
                except BaseException as exc:
                    course.note_cancelled(exc)
                    raise
                else:
                    if response.status_code not in TRANSIENT:
                        course.attempts += 1
                        return self._reported(response, course)
                if self._is_total(error, deadline):
                    assert error is not None
                    raise_again(error)
        finally:
            course.forget()
            del error

    async def _put_away(self, course: Course, request: Any, response: Any, deadline: float) -> None:
        """Drain and close an answer that will be asked for again, so that its connection can be used for that."""
        if response is None:
            return
        try:
            course.keep(await drain(response, request.method, deadline))
        except BaseException as exc:
            course.note_cancelled(exc, "was being waited for")
            raise
        finally:
            await close(response)

    async def _wait(self, course: Course, wake_at: float, settings: Settings, deadline: float) -> None:
        try:
            if not course.waits_in_bucket:
                await trio.sleep_until(wake_at)
        except BaseException as exc:
            course.note_cancelled(exc, "was being waited for")
            raise
        if current_time() >= deadline:  # the drain, or a stalled program, has used it up
            raise self._timed_out(self._total, settings.total_timeout, (None, ()), course)

    # -- one attempt -----------------------------------------------------------------------------------------------------

    async def _attempted(
        self, request: Any, origin: Origin, settings: Settings, deadline: float, course: Course | None
    ) -> Any:
        """Make one attempt, through all layers below the retry. Whatever comes out, all that was taken is given back."""
        breaker = origin.breaker if settings.breaker else None
        bulkhead, permit, ticket = origin.bulkhead, None, None
        if breaker is not None:
            if _instruments.installed:
                _instruments.announce(breaker)
            taken = breaker._take()
            if type(taken) is not Ticket:
                assert isinstance(taken, RejectedError)
                await _instruments.reject(breaker, to_edge(self._library, taken))
            ticket = taken
            breaker._inside += 1
        try:
            if bulkhead is not None:
                permit = _permit_now(bulkhead)
                if permit is None:
                    permit = await self._queued(settings, deadline, course, _permit, bulkhead)
            if origin.bucket is not None or origin.gate is not None:
                await self._take_tokens(request, origin, settings, deadline, course)
            response = await self._exchange(request, settings, deadline, course)
        except BaseException as exc:
            if permit is not None and bulkhead is not None:
                bulkhead._give_back(permit)
            if ticket is not None and breaker is not None:
                breaker._leave_call(ticket, self._verdict(breaker, exc, deadline), exc)
            raise
        status = response.status_code
        if status >= 500 or status == PUSHED_BACK or (breaker is not None and breaker._on_result is not None):
            try:
                self._answered(request, origin, settings, response, breaker, ticket)
            except BaseException:
                if permit is not None and bulkhead is not None:
                    bulkhead._give_back(permit)
                await close(response)
                raise
        elif ticket is not None and breaker is not None:
            breaker._leave_call(ticket, False, None)
        if permit is not None or self._counts_bodies or settings.body_timeout != math.inf:
            self._hold(origin, settings, response, permit)
        return response

    async def _exchange(self, request: Any, settings: Settings, deadline: float, course: Course | None) -> Any:
        """Let the transport send the request, within the nearer deadline."""
        attempt_deadline = current_time() + settings.attempt_timeout
        by_total = deadline <= attempt_deadline
        if self._stamps:
            self._stamp(request, min(deadline, attempt_deadline), 1 if course is None else course.attempts + 1)
        passed: Passed = (None, ())
        connecting = False
        with CancelScope(deadline=deadline if by_total else attempt_deadline):
            try:
                return await self._transport.handle_async_request(request)
            except BaseException as exc:
                passed, connecting = _passed(exc), was_connecting(exc)
                raise
        # only if the scope's own deadline ended it, and nothing else came out
        if by_total:
            raise self._timed_out(self._total, settings.total_timeout, passed, course, connecting=connecting)
        raise self._timed_out(self._attempt, settings.attempt_timeout, passed, connecting=connecting)

    async def _take_tokens(
        self, request: Any, origin: Origin, settings: Settings, deadline: float, course: Course | None
    ) -> None:
        bucket = origin.bucket
        if bucket is None:
            gate = origin.shut_gate()
            if gate is not None:
                await self._queued(settings, deadline, course, gate.acquire)
            return
        tokens = _tokens(bucket, request, settings)
        if not tokens:
            return
        try:
            bucket.acquire_nowait(tokens)
        except trio.WouldBlock:
            await self._queued(settings, deadline, course, bucket.acquire, tokens)

    async def _queued(
        self,
        settings: Settings,
        deadline: float,
        course: Course | None,
        acquire: Callable[..., Awaitable[Any]],
        *args: Any,
    ) -> Any:
        """Wait in a queue, as long as the total allows."""
        began_at = current_time()
        passed: Passed = (None, ())
        rejection = None
        with CancelScope(deadline=deadline):
            try:
                return await acquire(*args)
            except RejectedError as exc:
                rejection = exc
            except BaseException as exc:
                passed = _passed(exc)
                raise
            finally:
                if course is not None:
                    course.waited += current_time() - began_at
        try:
            if rejection is not None:
                raise to_edge(self._library, rejection)
            raise self._timed_out(self._total, settings.total_timeout, passed, course)
        finally:
            del rejection  # its traceback holds this frame

    def _answered(
        self,
        request: Any,
        origin: Origin,
        settings: Settings,
        response: Any,
        breaker: CircuitBreaker | None,
        ticket: Ticket | None,
    ) -> None:
        """Give the verdict on an answer, and do what its Retry-After says for all requests to its origin."""
        failed = None
        try:
            if breaker is not None:
                failed = self._is_failure(breaker, request, response)
            status = response.status_code
            if status in (PUSHED_BACK, UNAVAILABLE) and quickened.get() is None:
                asked = self._judge.seconds_asked(response)
                if asked:
                    longest = MAX_HINT if settings.retry is None else settings.retry.max_hint
                    asked = min(asked, longest)
                if asked and status == PUSHED_BACK:
                    origin.pause(asked)
                elif asked and breaker is not None:
                    breaker.open(asked)  # before the verdict, which is stale then: open for just so long
        finally:
            if breaker is not None and ticket is not None:
                breaker._leave_call(ticket, failed, None)

    def _is_failure(self, breaker: CircuitBreaker, request: Any, response: Any) -> bool:
        if breaker._on_result is None:
            return is_failing(response.status_code)
        self._judge.introduce(response, request)
        return bool(breaker._on_result(response))

    def _verdict(self, breaker: CircuitBreaker, exc: BaseException, deadline: float) -> bool | None:
        if self._is_total(exc, deadline):
            return None  # it stands around the circuit, which sees a cancellation
        verdict = self._judge.verdict(exc)
        return verdict if verdict is None or breaker._on is Exception else breaker._is_failure(exc)

    # -- answers and errors ----------------------------------------------------------------------------------------------

    def _reported(self, response: Any, course: Course | None = None) -> Any:
        """Let an answer tell how it was got."""
        extensions = response.extensions
        report = extensions.get(EXTENSION)
        if course is not None:
            reused = report.reused if isinstance(report, CallReport) else None
            extensions[EXTENSION] = CallReport(attempts=course.attempts, waited=course.waited, reused=reused)
        elif type(report) is not CallReport:
            extensions[EXTENSION] = FOREIGN
        elif report.attempts != 1 or report.waited:
            extensions[EXTENSION] = CallReport(reused=report.reused)
        return response

    def _hold(self, origin: Origin, settings: Settings, response: Any, permit: Any) -> None:
        """Let an answer's body hold the permit until it is closed, be counted, and have its own deadline."""
        bulkhead = origin.bulkhead
        if response.is_closed:  # all of it is there
            if permit is not None and bulkhead is not None:
                bulkhead._give_back(permit)
            return
        leave = None
        if self._counts_bodies:
            self._inside += 1
            leave = self._leave
        response.stream = held_body_class(self._library)(
            response.stream,
            f"{self.name} ({origin.name})",
            permit=None if permit is None or bulkhead is None else (bulkhead, permit),
            leave=leave,
            deadline=current_time() + settings.body_timeout,
            timed_out=functools.partial(self._body_timed_out, settings.body_timeout),
        )

    def _body_timed_out(self, allowed: float) -> Any:
        return self._timed_out(self._body, allowed, (True, ()))

    def _timed_out(
        self, policy: Timeout, allowed: float, passed: Passed, course: Course | None = None, *, connecting: bool = False
    ) -> Any:
        """Return the error of a time-out; with a course, that of the total."""
        started, notes = passed
        if course is not None:
            started = course.has_started or started
            notes = [*notes, course.in_flight()]
        error = self._library.timed_out_error(policy.name, allowed, started=started)
        error._connecting = connecting
        for note in notes:
            error.add_note(note)
        _instruments.emit(TimedOut, policy=policy, seconds=allowed, started=started)
        return error

    def _is_total(self, error: BaseException | None, deadline: float) -> bool:
        """Tell whether an error is that of this call's total, which nothing comes after."""
        if not isinstance(error, EdgeTimeout):
            return False
        return error.policy == self._total.name and current_time() >= deadline

    def _stamp(self, request: Any, deadline: float, attempt: int) -> None:
        """Tell the server the number of the attempt, and how long its answer will be of use."""
        if self._attempt_header is not None:
            request.headers[self._attempt_header] = str(attempt)
        if self._deadline_header is not None:
            left = min(deadline, current_effective_deadline()) - current_time()
            if left < math.inf:
                request.headers[self._deadline_header] = f"{max(0.0, left):.3f}"
            else:
                request.headers.pop(self._deadline_header, None)

    # -- as a service ----------------------------------------------------------------------------------------------------

    def close_admission(self) -> None:
        """From now on reject new requests. Those inside go on, with their retries. Synchronous."""
        self._closed = True

    async def wait_drained(self) -> None:
        """Wait until no request is inside, and, as far as the transport can tell, until no answer is open.

        Cancellation: a full checkpoint; nothing changes.
        """
        await check_cancelled()
        if not self._inside:
            await cancel_shielded_checkpoint()
        while self._inside:
            await self._drained.park()
        if isinstance(self._transport, Drainable):
            await self._transport.wait_drained()

    def _leave(self) -> None:
        self._inside -= 1
        if self._drained and not self._inside:
            self._drained.unpark_all()

    async def aclose(self) -> None:
        """Close the transport inside."""
        await self._transport.aclose()

    async def __aenter__(self) -> Any:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._transport.__aexit__(kind, error, traceback)

    def statistics(self) -> ResilientTransportStatistics:
        """Return a snapshot; works outside of a run, as of the last use."""
        return ResilientTransportStatistics(
            name=self.name,
            inside=self._inside,
            requests=self._requests,
            retries=self._retries,
            closed=self._closed,
            origins=self._origins.statistics(),
        )

    def __repr__(self) -> str:
        closed = ", closed" if self._closed else ""
        return (
            f"<trioresil.{self._library.name}.ResilientTransport {self.name!r} {self._inside} inside, "
            f"{len(self._origins)} origins{closed}>"
        )


def _permit_now(bulkhead: Bulkhead) -> Any:
    """Take a permit if one is free; None if not."""
    if _instruments.installed:
        _instruments.announce(bulkhead)
    if bulkhead._closed:
        return None
    permit = bulkhead._new_permit()
    try:
        bulkhead._limiter.acquire_on_behalf_of_nowait(permit)
    except trio.WouldBlock:
        return None
    return permit


async def _permit(bulkhead: Bulkhead) -> Any:
    """Take a permit through the queue."""
    if bulkhead._closed:
        await bulkhead._reject("admission is closed")
    permit = bulkhead._new_permit()
    await bulkhead._wait(permit)
    return permit


def _tokens(bucket: TokenBucket, request: Any, settings: Settings) -> float:
    """Return how many tokens a request takes: as it says, or as the bucket reckons."""
    if settings.tokens is not None:
        return settings.tokens
    return 1.0 if bucket._cost is None else bucket._check_cost(bucket._cost(request))


def _check_retry(retry: Any) -> Retry | None:
    if retry is not None and not isinstance(retry, Retry):
        raise TypeError(f"retry must be a Retry or None, not {retry!r}")
    return retry
