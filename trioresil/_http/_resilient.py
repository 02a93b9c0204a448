"""ResilientTransport: policies around any transport.

The order of the layers, outermost first: total time-out, retry, circuit, bulkhead, bucket or gate, attempt time-out, transport.
No layer is a scope of its own but where somebody waits: each queue stands in a scope that ends with the total, each attempt
in one that ends with the nearer of the two deadlines. So a request that meets no queue and no failure pays for one.
"""

from __future__ import annotations

import copy
import math
from types import EllipsisType, TracebackType
from typing import Any, Final

import attrs
import trio
from trio import current_time
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from .. import _instruments
from .._checks import seconds, text
from .._events import CallFinished, CallStarted, Outcome
from .._kernel.backoff import exponential
from .._links import check_cancelled, not_let_in
from .._notes import raise_again
from .._policies.bulkhead import Bulkhead
from .._policies.circuit_breaker import CircuitBreaker
from .._policies.retry import Retry, _note_cancelled
from .._policies.timeout import Timeout
from .._policies.token_bucket import TokenBucket
from .._retry_budget import RetryBudget
from ..abc import Drainable
from ._attempts import Attempts, Traffic, is_bad, tokens_of
from ._bodies import close, drain, is_form_of_bytes, watched_body_class
from ._course import Course
from ._judgement import TRANSIENT
from ._options import EXTENSION, Settings, attempt_seconds, settings_of
from ._origin_policies import Origin, Origins, OriginStatistics, PerOrigin, default_breaker
from ._report import HEARD_AFTER, CallReport

FOREIGN: Final = CallReport()


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


class ResilientTransport(Attempts):
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
      attempt_timeout (float, seconds, > 0, or math.inf): bounds each attempt. Keep it below the total: only a time-out of an
        attempt counts for the circuit, and only after one is there time for another. Default: 10, or a third of the total if
        that is less.
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

    def __init__(
        self,
        transport: Any,
        *,
        retry: Retry | EllipsisType | None = ...,
        breaker: PerOrigin[CircuitBreaker] | EllipsisType = ...,
        bulkhead: PerOrigin[Bulkhead] = None,
        bucket: PerOrigin[TokenBucket] = None,
        total_timeout: float = 30.0,
        attempt_timeout: float | None = None,
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
        total_timeout = seconds("total_timeout", total_timeout, zero=False)
        attempt_timeout = attempt_seconds(attempt_timeout, total_timeout)
        self._settings = Settings(
            total_timeout=total_timeout,
            attempt_timeout=attempt_timeout,
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
        self._traffic = Traffic()
        if isinstance(transport, Drainable):
            self._traffic.drainables.append(transport)

    def _check_transport(self, transport: Any) -> Any:
        client = self._library.client
        if not isinstance(transport, client.AsyncBaseTransport):
            raise TypeError(f"transport must be an {self._library.name}.AsyncBaseTransport, not {transport!r}")
        return transport

    def _beside(self, transport: Any) -> Any:
        """Return one like this, around another transport, that shares all policies and counts with this."""
        other = copy.copy(self)
        other._transport = self._check_transport(transport)
        other._counts_bodies = not isinstance(transport, Drainable)
        if isinstance(transport, Drainable):
            self._traffic.drainables.append(transport)
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
        settings, extensions, traffic = self._settings, request.extensions, self._traffic
        if EXTENSION in extensions:
            settings = settings_of(extensions[EXTENSION], settings)
        try:
            await checkpoint_if_cancelled()
        except BaseException as exc:
            not_let_in(exc)
            raise
        if _instruments.installed:
            _instruments.announce(self)
        if traffic.closed:
            await _instruments.reject(self, self._library.pool_closed_error(self.name))
        url = request.url
        origin = self._origins[f"{url.scheme}://{url.netloc.decode('ascii')}"]
        traffic.inside += 1
        traffic.requests += 1
        try:
            if _instruments.installed:
                return await self._observed(request, origin, settings)
            if type(request.stream) is self._byte_stream:
                return await self._send(request, origin, settings, True)
            return await self._send_watched(request, origin, settings)
        finally:
            traffic.leave()

    async def _observed(self, request: Any, origin: Origin, settings: Settings) -> Any:
        """Send a request, and report its start to those who trace and its end to all who listen."""
        if settings.retry is not None:
            _instruments.announce(settings.retry)
        facts = {"policy": self, "method": request.method, "origin": origin.name}
        key, began_at = _instruments.begin(CallStarted, **facts), current_time()
        response = error = None
        outcome: Outcome = "success"
        try:
            if type(request.stream) is self._byte_stream:
                response = await self._send(request, origin, settings, True)
            else:
                response = await self._send_watched(request, origin, settings)
            if is_bad(response):
                outcome = "failure"
            return response
        except BaseException as exc:
            error, outcome = exc, _instruments.outcome_of(exc)
            raise
        finally:
            status = None if response is None else response.status_code
            took = current_time() - began_at
            _instruments.emit(
                CallFinished, policy=self, outcome=outcome, seconds=took, error=error, status=status, key=key
            )
            del error  # its traceback holds this frame

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
        now = current_time()
        deadline = now + settings.total_timeout
        error = None
        try:
            attempted = self._traced_attempt if _instruments.tracing else self._attempted
            response = await attempted(request, origin, settings, deadline, None)
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
            course = Course(self._judge, retry, request, deadline, began_at=now)
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
        extensions = request.extensions
        try:
            while True:
                try:
                    course.bucket = origin.bucket is not None and bool(tokens_of(origin.bucket, request, settings))
                    wake_at = course.next_instant(error, response, replayable=body is True or not body.begun)
                except BaseException:
                    if response is not None:
                        await close(response)
                    raise
                if wake_at is None:
                    return self._reported(course.conclude(self._library), course)
                await self._put_away(course, request, response, deadline)
                await self._wait(course, wake_at, settings, deadline)
                self._traffic.retries += 1
                if self._judge.fell_silent(error):  # where one connection has died unnoticed, others may have
                    request.extensions = {**extensions, HEARD_AFTER: course.began_at}
                error, course.began_at = None, current_time()
                try:
                    attempted = self._traced_attempt if _instruments.tracing else self._attempted
                    response = await attempted(request, origin, settings, deadline, course)
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
            request.extensions = extensions
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

    # -- as a service ----------------------------------------------------------------------------------------------------

    def close_admission(self) -> None:
        """From now on reject new requests. Those inside go on, with their retries. Synchronous."""
        self._traffic.closed = True

    async def wait_drained(self) -> None:
        """Wait until no request is inside, and, as far as the transport can tell, until no answer is open.

        Cancellation: a full checkpoint; nothing changes.
        """
        await check_cancelled()
        traffic = self._traffic
        if not traffic.inside:
            await cancel_shielded_checkpoint()
        while traffic.inside:
            await traffic.drained.park()
        for transport in traffic.drainables:
            await transport.wait_drained()

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
            inside=self._traffic.inside,
            requests=self._traffic.requests,
            retries=self._traffic.retries,
            closed=self._traffic.closed,
            origins=self._origins.statistics(),
        )

    def __repr__(self) -> str:
        closed = ", closed" if self._traffic.closed else ""
        return (
            f"<trioresil.{self._library.name}.ResilientTransport {self.name!r} {self._traffic.inside} inside, "
            f"{len(self._origins)} origins{closed}>"
        )


def _check_retry(retry: Any) -> Retry | None:
    if retry is not None and not isinstance(retry, Retry):
        raise TypeError(f"retry must be a Retry or None, not {retry!r}")
    return retry
