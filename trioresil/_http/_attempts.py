"""One attempt of a request: through the circuit, the bulkhead, the bucket or gate, and within its time, to the transport.

Whatever comes out of it, what was taken is given back in the same step: the place in the circuit with a verdict, the permit
unless an answer's body holds it from now on. Nothing is awaited between taking a thing and the `try` that gives it back.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ClassVar, Final

import trio
from trio import CancelScope, current_effective_deadline, current_time

from .. import _instruments
from .._errors import RejectedError
from .._events import AttemptStarted, TimedOut
from .._kernel.circuit import Ticket
from .._policies.bulkhead import Bulkhead
from .._policies.circuit_breaker import CircuitBreaker
from .._policies.retry import quickened
from .._policies.timeout import Timeout, _passed
from .._policies.token_bucket import TokenBucket
from ..abc import Drainable
from ._bodies import close, held_body_class
from ._course import Course
from ._edge_errors import EdgeTimeout, to_edge, was_connecting
from ._judgement import PUSHED_BACK, UNAVAILABLE, Judge, is_failing
from ._library import Library
from ._options import Settings
from ._origin_policies import Origin

MAX_HINT: Final = 60.0
Passed = tuple[bool | None, Iterable[str]]


class Traffic:
    """What goes through a transport, and through those beside it that a client's proxies and mounts need."""

    __slots__ = ("closed", "drainables", "drained", "inside", "requests", "retries")

    def __init__(self) -> None:
        self.closed = False
        self.inside = self.requests = self.retries = 0
        self.drained = trio.lowlevel.ParkingLot()
        self.drainables: list[Drainable] = []

    def leave(self) -> None:
        """Take note of the end of a request, or of an answer that is counted."""
        self.inside -= 1
        if self.drained and not self.inside:
            self.drained.unpark_all()


class Attempts:
    """What a ResilientTransport makes its attempts with."""

    _library: ClassVar[Library]
    _judge: ClassVar[Judge]

    name: str
    _transport: Any
    _total: Timeout
    _attempt: Timeout
    _body: Timeout
    _deadline_header: str | None
    _attempt_header: str | None
    _stamps: bool
    _counts_bodies: bool
    _traffic: Traffic

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

    async def _traced_attempt(
        self, request: Any, origin: Origin, settings: Settings, deadline: float, course: Course | None
    ) -> Any:
        """Make one attempt, and report its start and its end to those who trace."""
        number = 1 if course is None else course.attempts + 1
        facts: dict[str, Any] = {"policy": settings.retry or self, "attempt": number}
        key = _instruments.begin(AttemptStarted, **facts, method=request.method, origin=origin.name)
        if not key:
            return await self._attempted(request, origin, settings, deadline, course)
        began_at = current_time()
        try:
            response = await self._attempted(request, origin, settings, deadline, course)
        except BaseException as exc:
            took = current_time() - began_at
            _instruments.end_attempt(key, **facts, outcome=_instruments.outcome_of(exc), seconds=took, error=exc)
            raise
        facts |= {"outcome": "failure" if is_bad(response) else "success", "status": response.status_code}
        _instruments.end_attempt(key, **facts, seconds=current_time() - began_at, error=None)
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
        tokens = tokens_of(bucket, request, settings)
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
                elif asked and breaker is not None and ticket is not None and ticket.counts:
                    # not for what was let in without a verdict, as a health check is: that must not keep others out
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

    def _hold(self, origin: Origin, settings: Settings, response: Any, permit: Any) -> None:
        """Let an answer's body hold the permit until it is closed, be counted, and have its own deadline."""
        bulkhead = origin.bulkhead
        if response.is_closed:  # all of it is there
            if permit is not None and bulkhead is not None:
                bulkhead._give_back(permit)
            return
        leave = None
        if self._counts_bodies:
            self._traffic.inside += 1
            leave = self._traffic.leave
        response.stream = held_body_class(self._library)(
            response.stream,
            self.name,
            origin,
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


def is_bad(response: Any) -> bool:
    """Tell whether an answer is a failure for whoever watches: it counts against the server, or pushes back."""
    return is_failing(response.status_code) or response.status_code == PUSHED_BACK


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


def tokens_of(bucket: TokenBucket, request: Any, settings: Settings) -> float:
    """Return how many tokens a request takes: as it says, or as the bucket reckons."""
    if settings.tokens is not None:
        return settings.tokens
    return 1.0 if bucket._cost is None else bucket._check_cost(bucket._cost(request))
