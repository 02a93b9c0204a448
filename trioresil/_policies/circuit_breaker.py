"""CircuitBreaker: stops calling what keeps failing, and finds out carefully when it works again.

The state machine is in the kernel. Here: who is asked what at which moment, so that every admission ends in exactly one report,
in the same step in which its work ends, however it ends.
"""

from __future__ import annotations

import inspect
import itertools
import math
import operator
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from random import Random
from types import TracebackType
from typing import Any, Final

import attrs
from trio import CancelScope
from trio.lowlevel import (
    ParkingLot,
    Task,
    cancel_shielded_checkpoint,
    current_root_task,
    current_task,
    enable_ki_protection,
)

from .. import _instruments
from .._checks import chance, flag, function, number, seconds, text, whole
from .._clock import RunClock
from .._errors import CircuitIsolatedError, CircuitOpenError, is_no_verdict
from .._events import CallRejected, CircuitClosed, CircuitHalfOpened, CircuitOpened
from .._failures import On, check_on, failure_test
from .._kernel.backoff import Backoff, Listed, as_backoff, endless
from .._kernel.blocks import BlockStacks
from .._kernel.circuit import Circuit, CircuitState, Signal, Ticket
from .._kernel.trip_rules import ConsecutiveFailures, TripGauge, TripRule
from .._links import Link, check_cancelled
from ..abc import Policy

checked_breaker: Final[ContextVar[object]] = ContextVar("trioresil_checked_breaker", default=None)
"""The breaker that is tied to the health check under way, in the context of that check; see `CircuitBreaker._take`."""


@attrs.frozen(kw_only=True)
class CircuitBreakerStatistics:
    """Snapshot of a CircuitBreaker."""

    name: str
    """Its name."""
    state: CircuitState
    """What a call would meet now."""
    enforced: bool
    """False: it only reports."""
    isolations: int
    """How many hold it open by hand."""
    remaining: float
    """Seconds until the open time is over; 0 if it isn't open."""
    level: int
    """How often it has re-opened lately."""
    probes_out: int
    """Probes that hold a slot."""
    inside: int
    """Calls and blocks under way."""
    opened: int
    """How often it has opened, in all."""
    rejected: int
    """Rejections so far."""
    trip: str
    """How near it is to opening, in words."""
    gauges: tuple[TripGauge, ...] = ()
    """The same in numbers, one for each rule of `trip`."""


def _fixed(attribute: str) -> Any:
    """Return a public attribute that can only be read: decisions were made from it, and to change it would change half."""

    def refuse(breaker: CircuitBreaker, value: object) -> None:
        name = attribute.removeprefix("_")
        raise AttributeError(
            f"{breaker.name}: a breaker's {name} can't be changed: make another with CircuitBreaker({name}=...)",
            name=name,
            obj=breaker,
        )

    return property(operator.attrgetter(attribute), refuse)


class CircuitBreaker(Policy):
    """Rejects calls for a while when too many have failed, then lets a few through to see whether it works again.

    Calls that can't succeed cost time, connections and the other side's last strength. CLOSED lets calls pass and watches their
    outcomes; when `trip` says so it turns OPEN and rejects at once; after `open_for` it is HALF_OPEN and lets at most `probes`
    calls in: if they succeed it closes, if one fails it opens again. A cancelled call is no verdict, nor is a call that another
    policy refused to start; an error that `on` doesn't match is a good one, because the other side answered.

    Synopsis::

        breaker = trioresil.CircuitBreaker(trip=trioresil.FailureRatio(0.5, window=30), name="search")

        response = await breaker.call(client.get, url)

        async with breaker:
            ...

        with breaker.admit() as admission:        # gives the verdict by hand; also inside generators
            response = await client.get(url)
            if response.status_code >= 500:
                admission.fail()

    Sharing: one object for all that calls the same service. Cost: about as much as one function call, no task, no timer.

    Args:
      trip (TripRule): when to open; rules combine with `|`. Default: ConsecutiveFailures(5).
      open_for (float, seconds, > 0, or a Backoff, or a list of seconds): how long to stay open. A Backoff or list gives another
        time for each re-opening, its last one for ever; the circuit comes down one level for each length of the last open time
        that it has then stayed closed. Default: 30.
      probes (int, >= 1): most calls let in at once when half-open. Default: 1.
      successes_to_close (int, >= 1): how many of them must succeed. Default: 1.
      probe_lease (float, seconds, > 0): after so long a probe's slot is given to another; the call goes on, without a verdict.
        Default: 60.
      on (exception class, tuple of classes, or (Exception) -> bool): what counts as a failure. Must not raise.
        Default: Exception.
      on_result ((result) -> bool): True: this result is a failure. Must not raise. Default: none is.
      enforce (bool): False: count and report, but reject nothing. Settable live as `.enforce`. Default: True.
      rng (random.Random): source of jitter for a Backoff in open_for. Default: one seeded by the system.
      name (str): its name in errors, events and statistics. Default: "circuit-breaker".

    Cancellation: `call`, decorator and block check for cancellation on entry; `admit` is no checkpoint. A cancelled call gives
    no verdict, and its slot is free in the same step. A rejection is a full checkpoint, but for `admit`'s.

    Raises:
      CircuitOpenError: the circuit is open, or half-open with its probes out; retry_after is exact, None while probes are out.
      CircuitIsolatedError: it is held open by hand.

    Source: M. Nygard, "Release It!"; states and names as in Polly and resilience4j.
    """

    _one_chain = True

    name: str = _fixed("_name")
    trip: TripRule = _fixed("_trip")
    on: On = _fixed("_on")
    on_result: Callable[[Any], bool] | None = _fixed("_on_result")

    def __init__(
        self,
        *,
        trip: TripRule | None = None,
        open_for: float | Backoff | Iterable[float] = 30.0,
        probes: int = 1,
        successes_to_close: int = 1,
        probe_lease: float = 60.0,
        on: On = Exception,
        on_result: Callable[[Any], bool] | None = None,
        enforce: bool = True,
        rng: Random | None = None,
        name: str = "circuit-breaker",
    ) -> None:
        self._name = text("name", name)
        self._trip = _check_trip(trip)
        self._on = check_on(on)
        self._on_result: Callable[[Any], bool] | None = function("on_result", on_result, signature="(result) -> bool")
        self._enforce = flag("enforce", enforce)
        self._rng = chance("rng", rng) or Random()
        self._probe_lease = seconds("probe_lease", probe_lease, zero=False)
        self._open_for = _check_open_for(open_for)
        self._is_failure = failure_test(self._on)
        self._timed = self._trip.uses_clock
        self._circuit = Circuit(
            self._trip.counter(),
            open_time=self._open_time,
            peak=_peak(self._open_for),
            probes=whole("probes", probes),
            successes_to_close=whole("successes_to_close", successes_to_close),
            probe_lease=self._probe_lease,
            on_change=self._changed,
        )
        self._blocks = BlockStacks()
        self._clock = RunClock(self._shift, occupied=self._occupied, owner=repr(name))
        self._changes = ParkingLot()
        self._cause: BaseException | None = None
        self._root: weakref.ref[Task] | None = None  # of the trio.run that was met last
        self._inside = 0  # calls
        self._admissions: set[Ticket] = set()
        self._opened = 0
        self._rejected = 0

    # -- forms -----------------------------------------------------------------------------------------------------------

    def link(self, inner: Link) -> Link:
        """Return one link of a chain; see trioresil.abc.Policy."""
        circuit, timed, on_result = self._circuit, self._timed, self._on_result
        record, read_clock = circuit.counter.record, self._clock.read

        async def link(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            if _instruments.installed:
                _instruments.announce(self)
            if not circuit.passing:
                return await self._call_admitted(inner, args, kwargs)
            generation = circuit.generation
            began_at = read_clock() if timed else 0.0
            self._inside += 1
            try:
                result = await inner(args, kwargs)
            except BaseException as exc:
                self._inside -= 1
                if generation == circuit.generation and not is_no_verdict(exc):
                    now = read_clock() if timed else 0.0
                    if record(now, self._is_failure(exc), now - began_at):
                        self._open_now(exc)
                raise
            self._inside -= 1
            failed = on_result is not None and bool(on_result(result))
            if generation == circuit.generation:  # else the circuit has moved on, and this verdict is of the past
                now = read_clock() if timed else 0.0
                if record(now, failed, now - began_at):
                    self._open_now(None)
            return result

        return link

    async def _call_admitted(self, inner: Link, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        # A Ctrl-C must find the slot either not taken or given back. What takes and gives is protected from it; the function
        # that is called must not be, nor then this frame, in which Python looks for signals only as it calls something.
        ticket = failed = error = None
        try:
            ticket = await self._take_or_reject()
            self._inside += 1
            try:
                result = await inner(args, kwargs)
            except BaseException as exc:
                error = exc
                failed = self._verdict(exc)
                raise
            failed = self._on_result is not None and bool(self._on_result(result))
            return result
        finally:
            if ticket is not None:
                self._leave_call(ticket, failed, error)
            del error  # its traceback holds this frame

    def admit(self) -> Admission:
        """Return one admission, a `with` block whose exit gives the verdict, unless that is given by hand. No checkpoint."""
        return Admission(self)

    @enable_ki_protection
    async def __aenter__(self) -> None:
        await check_cancelled()
        if _instruments.installed:
            _instruments.announce(self)
        ticket = await self._take_or_reject()
        self._blocks.push(current_task(), ticket, ticket.admitted_at - self._probe_lease)

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ticket, certain = self._blocks.pop(current_task())
        if ticket is None:
            return
        if certain:
            self._report_exit(ticket, error)
        else:
            self._report(ticket, None, None)

    # -- by hand ---------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> CircuitState:
        """What a call would meet now: HALF_OPEN as soon as the open time is over."""
        return self._circuit.state_at(self._clock.peek())

    @property
    def enforce(self) -> bool:
        """False: count and report, reject nothing; what would be rejected is admitted without a verdict. Settable."""
        return self._enforce

    @enforce.setter
    @enable_ki_protection
    def enforce(self, value: bool) -> None:
        self._enforce = flag("enforce", value)
        self._changes.unpark_all()

    @enable_ki_protection
    def open(self, seconds: float) -> None:
        """Open for so long, as when the other side says 503 with Retry-After; an open time that lasts longer is kept.

        Args:
          seconds (float, seconds, > 0): how long.
        """
        number("seconds", seconds, above=0, unit="seconds")
        self._circuit.open(self._clock.read(), seconds)

    @enable_ki_protection
    def reset(self) -> None:
        """Close, and forget what was counted. Isolations stay."""
        self._circuit.reset(self._clock.read_or_last())

    @enable_ki_protection
    def isolate(self) -> Isolation:
        """Reject all calls until the returned token's `release()`; reference-counted. The state underneath goes on."""
        return Isolation(self).__enter__()

    def isolated(self) -> Isolation:
        """Return a block in which all calls are rejected: `with breaker.isolated(): ...`."""
        return Isolation(self)

    def _isolate(self, change: int) -> None:
        self._circuit.isolate(change)
        self._changes.unpark_all()

    async def wait_admittable(self) -> None:
        """Wait until a call could be let in, as a probe too. A hint and no promise: others may be let in first.

        Cancellation: a full checkpoint; nothing changes.
        """
        await check_cancelled()
        waited = False
        while self._enforce:
            now = self._clock.read()
            admittable_at = self._circuit.admittable_at(now)
            if admittable_at <= now:
                break
            waited = True
            with CancelScope(deadline=admittable_at):
                await self._changes.park()
        if not waited:
            await cancel_shielded_checkpoint()

    # -- state -----------------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Return what `restore` needs to go on after a restart of the process, fit for JSON: ages and remainders, no counts."""
        state, ages = self._circuit.state, self._circuit.ages(self._clock.peek())
        return {"state": state.value, **{key: _finite(value) for key, value in ages.items()}}

    @classmethod
    def restore(cls, snapshot: Mapping[str, Any], **configuration: Any) -> CircuitBreaker:
        """Return a breaker that goes on where a snapshot was taken; the time in between is not counted.

        Args:
          snapshot (dict): what `snapshot()` returned.
          **configuration: the constructor's arguments.

        Raises:
          ValueError: the snapshot has another form.
        """
        breaker = cls(**configuration)
        state, ages = _check_snapshot(snapshot)
        breaker._circuit.restore(state, breaker._clock.read_or_last(), ages)
        return breaker

    def statistics(self) -> CircuitBreakerStatistics:
        """Return a snapshot for people and instruments; works outside of a run, as of the last use."""
        now = self._clock.peek()
        circuit = self._circuit
        return CircuitBreakerStatistics(
            name=self.name,
            state=circuit.state_at(now),
            enforced=self._enforce,
            isolations=circuit.isolations,
            remaining=circuit.ages(now)["remaining"],
            level=circuit.level,
            probes_out=circuit.probes_out(now),
            inside=self._inside + len(self._admissions) + len(self._blocks),
            opened=self._opened,
            rejected=self._rejected,
            trip=circuit.counter.describe(),
            gauges=circuit.counter.gauges(),
        )

    def __repr__(self) -> str:
        now = self._clock.peek()
        state = self._circuit.state_at(now)
        details = {
            CircuitState.CLOSED: self._circuit.counter.describe(),
            CircuitState.OPEN: f"next probe in {self._circuit.ages(now)['remaining']:.4g} s",
            CircuitState.HALF_OPEN: f"{self._circuit.probes_out(now)} probes out",
            CircuitState.ISOLATED: f"by {self._circuit.isolations}",
        }[state]
        dry = "" if self._enforce else ", not enforced"
        return f"<trioresil.CircuitBreaker {self.name!r} {state.value}{', ' if details else ''}{details}{dry}>"

    # -- inside ----------------------------------------------------------------------------------------------------------

    def _take(self) -> Ticket | CircuitOpenError:
        """Admit, or return the rejection; if it isn't enforced, admit without a verdict."""
        now = self._clock.read()
        circuit = self._circuit
        if not circuit.passing and checked_breaker.get() is self:
            # A health check whose outcome decides whether this circuit is isolated. It must get through, or nothing would ever
            # heal; but the circuit doesn't ask it for a verdict, and gives it no slot that a probe would miss.
            return Ticket(circuit.generation, now, counts=False)
        admitted = circuit.admit(now)
        if isinstance(admitted, Ticket):
            return admitted
        isolated = admitted.state is CircuitState.ISOLATED
        error = CircuitIsolatedError(self.name) if isolated else CircuitOpenError(self.name, admitted.retry_after)
        if self._enforce:
            self._rejected += 1
            return error
        _instruments.emit(CallRejected, policy=self, error=error, enforced=False)
        return Ticket(circuit.generation, now, counts=False)

    @enable_ki_protection
    async def _take_or_reject(self) -> Ticket:
        taken = self._take()
        if isinstance(taken, Ticket):
            return taken
        try:
            await _instruments.reject(self, taken)
        finally:
            del taken  # its traceback holds this frame

    def _verdict(self, error: BaseException | None) -> bool | None:
        """Say what an outcome means: True a failure, False a success, None nothing."""
        if error is None:
            return False
        return None if is_no_verdict(error) else self._is_failure(error)

    @enable_ki_protection
    def _leave_call(self, ticket: Ticket, failed: bool | None, error: BaseException | None) -> None:
        self._inside -= 1
        self._report(ticket, failed, error)

    def _report_exit(self, ticket: Ticket, error: BaseException | None) -> None:
        verdict = None  # what stands if `on` raises
        try:
            verdict = self._verdict(error)
        finally:
            self._report(ticket, verdict, error)

    def _report(self, ticket: Ticket, failed: bool | None, error: BaseException | None) -> None:
        # A generator that holds an admission may be closed anywhere, even after the run: its slot has to come back there too.
        now = self._clock.peek() if failed is None else self._clock.read_or_last()
        self._cause = error
        try:
            slot_came_back = self._circuit.report(ticket, now, failed)
        finally:
            self._cause = None
        if slot_came_back:
            self._changes.unpark_all()

    @enable_ki_protection
    def _open_now(self, error: BaseException | None) -> None:
        self._cause = error
        try:
            self._circuit.trip(self._clock.read())
        finally:
            self._cause = None

    def _open_time(self, level: int) -> float:
        if isinstance(self._open_for, float):
            return self._open_for
        delays = endless("open_for", self._open_for.delays(self._rng))
        return next(itertools.islice(delays, level, None))

    def _changed(self, signal: Signal, before: CircuitState) -> None:
        self._changes.unpark_all()
        if signal in _OPENING:
            self._opened += 1
            circuit = self._circuit
            by_hand = signal is Signal.OPENED
            open_for = circuit.ages(self._clock.peek())["remaining"] if by_hand else circuit.open_for
            _instruments.emit(
                CircuitOpened, policy=self, open_for=open_for, level=circuit.level, error=self._cause, by_hand=by_hand
            )
        elif signal is Signal.TIME_OVER:
            _instruments.emit(CircuitHalfOpened, policy=self)
        elif before is not CircuitState.CLOSED:
            _instruments.emit(CircuitClosed, policy=self, by_hand=signal is Signal.RESET)

    def _occupied(self) -> bool:
        """Tell whether somebody is inside, or waits, in a run that still goes on; what another run left behind is no one."""
        if not (self._inside or self._admissions or len(self._blocks) or len(self._changes)):
            return False
        root = None if self._root is None else self._root()
        return root is not None and inspect.getcoroutinestate(root.coro) != inspect.CORO_CLOSED

    def _shift(self, seconds: float) -> None:
        root = current_root_task()
        self._root = None if root is None else weakref.ref(root)
        self._circuit.shift(seconds)
        self._blocks.clear()
        for ticket in self._admissions:  # left over from a run that has ended: what was seen there says nothing here
            ticket.counts = False
        self._admissions.clear()


class Admission:
    """One call let in by a CircuitBreaker, as a `with` block. Entering takes the slot, leaving gives it back with a verdict."""

    __slots__ = ("_breaker", "_by_hand", "_entered", "_error", "_ticket", "_verdict")

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._ticket: Ticket | None = None
        self._entered = False
        self._by_hand = False
        self._verdict: bool | None = None
        self._error: BaseException | None = None

    def fail(self, error: BaseException | None = None) -> None:
        """Give the verdict by hand: it failed, however the block ends. `error` goes into the event."""
        self._check_inside()
        self._by_hand, self._verdict, self._error = True, True, error

    def ignore(self) -> None:
        """Give no verdict, however the block ends."""
        self._check_inside()
        self._by_hand, self._verdict, self._error = True, None, None

    def _check_inside(self) -> None:
        if self._ticket is None:
            raise RuntimeError(
                "fail() and ignore() belong inside of the admission's block: outside they would change nothing"
            )

    @enable_ki_protection
    def __enter__(self) -> Admission:
        if self._entered:
            raise RuntimeError("an admission is for one block: call breaker.admit() again for the next")
        if _instruments.installed:
            _instruments.announce(self._breaker)
        taken = self._breaker._take()
        if isinstance(taken, CircuitOpenError):
            try:
                _instruments.emit(CallRejected, policy=self._breaker, error=taken)
                raise taken
            finally:
                del taken  # its traceback holds this frame
        self._entered = True
        self._breaker._admissions.add(taken)
        self._ticket = taken
        return self

    @enable_ki_protection
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is None:
            raise RuntimeError("this admission's block was not entered, or has been left already")
        try:
            if self._by_hand:
                self._breaker._report(ticket, self._verdict, self._error)
            else:
                self._breaker._report_exit(ticket, error)
        finally:  # not before: the report may meet another run, in which this admission is a left-over
            self._breaker._admissions.discard(ticket)
            self._error = None


class Isolation:
    """Holds a circuit open by hand, until `release()` or the end of the block."""

    __slots__ = ("_breaker", "_held")

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._held = False

    @enable_ki_protection
    def release(self) -> None:
        """Let go. The circuit is then what it would have become meanwhile. Does nothing the second time."""
        if self._held:
            self._held = False
            self._breaker._isolate(-1)

    @enable_ki_protection
    def __enter__(self) -> Isolation:
        if self._held:
            raise RuntimeError("this isolation is held already: call breaker.isolate() again for another")
        self._held = True
        self._breaker._isolate(+1)
        return self

    @enable_ki_protection
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


_OPENING = frozenset({Signal.TRIPPED, Signal.PROBE_FAILED, Signal.OPENED})


def _check_trip(trip: TripRule | None) -> TripRule:
    if trip is None:
        return ConsecutiveFailures(5)
    if not isinstance(trip, TripRule):
        raise TypeError(f"trip must be a rule such as ConsecutiveFailures(5), or rules joined by |, not {trip!r}")
    return trip


def _check_open_for(open_for: float | Backoff | Iterable[float]) -> float | Backoff:
    if isinstance(open_for, (int, float)):
        return seconds("open_for", open_for, zero=False)
    return as_backoff("open_for", open_for)


def _peak(open_for: float | Backoff) -> float:
    """Return the level from which open times change no more. A list may shrink as well: all of it is used."""
    if isinstance(open_for, Listed):
        return len(open_for.seconds) - 1
    return getattr(open_for, "peak", math.inf)


def _finite(value: float) -> float | None:
    return None if value == math.inf else value


def _check_snapshot(snapshot: Mapping[str, Any]) -> tuple[CircuitState, dict[str, float]]:
    wanted = "snapshot must be what CircuitBreaker.snapshot() returned"
    try:
        state = CircuitState(snapshot["state"])
        raw = {key: snapshot[key] for key in ("level", "open_for", "remaining", "closed_for")}
        ages = {}
        for key, value in raw.items():
            unlimited = value is None and key in ("open_for", "remaining")
            ages[key] = math.inf if unlimited else number(f"snapshot[{key!r}]", value, least=0, finite=True)
    except (KeyError, TypeError, ValueError) as exc:
        raise ValueError(f"{wanted}, not {snapshot!r}") from exc
    if state is CircuitState.ISOLATED or ages["level"] % 1:
        raise ValueError(f"{wanted}, not {snapshot!r}")
    return state, ages
