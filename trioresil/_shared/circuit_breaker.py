"""SharedCircuitBreaker: one verdict for all processes that call the same service.

The circuit is on the server. Each process knows its state, from messages and answers, and lets calls pass by that; their outcomes
are told in batches. Only who wants to be a probe has to ask. Whatever is heard has an epoch and a version, so that what was said
earlier and comes later changes nothing.
"""

from __future__ import annotations

import functools
import itertools
import math
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from random import Random
from types import TracebackType
from typing import Any, Final, NoReturn

import attrs
import trio
from trio.lowlevel import ParkingLot, Task, cancel_shielded_checkpoint, current_task, enable_ki_protection

from .. import _instruments
from .._checks import chance, flag, function, number, seconds, whole
from .._errors import (
    CircuitIsolatedError,
    CircuitOpenError,
    RejectedError,
    SharedStateError,
    SharedStateUnavailableError,
    is_no_verdict,
)
from .._events import CallRejected, CircuitClosed, CircuitHalfOpened, CircuitOpened
from .._failures import On, check_on, failure_test
from .._kernel.backoff import Backoff, as_backoff
from .._kernel.circuit import CircuitState
from .._kernel.fleet import CLOSED, HALF_OPEN, OPEN, FleetRules, SharedRule
from .._kernel.trip_rules import (
    AnyOf,
    ConsecutiveFailures,
    FailureRatio,
    FailuresOf,
    SlowRatio,
    TripGauge,
    TripRule,
)
from .._links import Link, check_cancelled, mark_unstarted
from .._policies.circuit_breaker import Admission, CircuitBreaker
from ..abc import Policy
from .circuit_breaker_scripts import CIRCUIT, Told, config_words, told_in
from .engine import Argument, EngineDownError, Reply, ScriptEngine, ScriptRefusedError
from .together import check_part
from .token_bucket import check_engine
from .unavailable import FailClosed, FailOpen, OnUnavailable, check_on_unavailable

MOST_LEVELS: Final = 32
"""Open times that the server is told of a Backoff."""
MOST_RUNS: Final = 1000
"""Runs of like outcomes in one report."""
HOUR: Final = 3600

_STATES: Final = {CLOSED: CircuitState.CLOSED, OPEN: CircuitState.OPEN, HALF_OPEN: CircuitState.HALF_OPEN}


@attrs.frozen(kw_only=True)
class SharedCircuitBreakerStatistics:
    """Snapshot of what this process knows of a SharedCircuitBreaker."""

    name: str
    """Its name."""
    state: CircuitState
    """What a call would meet now; CLOSED if nothing is known yet."""
    enforced: bool
    """False: it only reports."""
    isolations: int
    """How many hold it open by hand, in this process."""
    remaining: float
    """Seconds until the open time is over; 0 if it isn't open."""
    level: int
    """How often it has re-opened lately."""
    probes_out: int
    """Probes of all processes that hold a slot, as was last heard."""
    inside: int
    """Calls and blocks under way in this process."""
    opened: int
    """How often this process has seen it open."""
    rejected: int
    """Rejections so far."""
    unreported: int
    """Outcomes that the server has yet to hear."""
    unavailable: int
    """Calls that were decided without the server, because it was away."""
    available: bool
    """Whether the server answers, as far as is known."""
    trip: str
    """How near it is to opening by what this process has seen, in words."""
    gauges: tuple[TripGauge, ...] = ()
    """The same in numbers, one for each rule of `trip`."""


class _Pass:
    """One call that was let in, and what its verdict is for."""

    __slots__ = ("began_at", "epoch", "local", "probe")

    def __init__(
        self, epoch: int = -1, began_at: float = 0.0, *, probe: str = "", local: Admission | None = None
    ) -> None:
        self.epoch = epoch  # -1: no verdict is wanted
        self.began_at = began_at
        self.probe = probe
        self.local = local


class SharedCircuitBreaker(Policy):
    """Rejects calls in all processes when too many have failed in any, and lets one of them try whether it works again.

    A CircuitBreaker whose state lies on a server: a hundred processes learn from each other's failures, and a service that comes
    back meets one probe, not a hundred. While it is closed, calls don't ask the server; their outcomes are told to it in batches,
    and its verdict is told to all.

    Synopsis::

        async with open_redis("redis://127.0.0.1:6379/0") as engine:
            breaker = SharedCircuitBreaker(engine, "search", trip=FailureRatio(0.5), on_unavailable=FailLocal())

            response = await breaker.call(client.get, url)

            async with breaker:
                ...

            async with breaker.admit() as admission:     # gives the verdict by hand
                response = await client.get(url)
                if response.status_code >= 500:
                    admission.fail()

    Sharing: one object for all tasks of a process; the same name and configuration in each process. Cost: closed, about that of a
    CircuitBreaker, and one message in each `report_every`; half-open, a round trip for who may be a probe.

    Args:
      engine (ScriptEngine): the server, as `open_redis` gives it.
      name (str, without braces): its name in errors, events and statistics, and the name of the state on the server.
      trip (TripRule): when to open, judged by the outcomes of all processes: ConsecutiveFailures, FailuresOf, FailureRatio and
        SlowRatio, also joined by `|`. Default: ConsecutiveFailures(5).
      open_for (float, seconds, > 0, or a Backoff, or a list of seconds): how long to stay open; of a Backoff the first 32 times.
        Default: 30.
      probes (int, >= 1): most calls let in at once when half-open, in all processes together. Default: 1.
      successes_to_close (int, >= 1): how many of them must succeed. Default: 1.
      probe_lease (float, seconds, > 0): after so long a probe's slot is given to another, as when its process was killed.
        Default: 60.
      on (exception class, tuple of classes, or (Exception) -> bool): what counts as a failure. Must not raise.
        Default: Exception.
      on_result ((result) -> bool): True: this result is a failure. Must not raise. Default: none is.
      enforce (bool): False: count and report, but reject nothing in this process. Settable live. Default: True.
      rng (random.Random): source of jitter for a Backoff in open_for. Default: one seeded by the system.
      on_unavailable (FailOpen, FailClosed or FailLocal): what to do when the server is away: let all pass, refuse all, or go by
        a CircuitBreaker of this process. Must be given.
      timeout (float, seconds, > 0): how long to wait for the server. Default: 0.05.
      report_every (float, seconds, > 0): how often outcomes are told; at once if those of this process alone would open it.
        Default: 0.1.

    Cancellation: `call`, decorator and block check for cancellation on entry. A cancelled call gives no verdict, and if it was a
    probe its slot is given back. A rejection is a full checkpoint.

    Raises:
      trioresil.CircuitOpenError: the circuit is open, or half-open with its probes out.
      trioresil.CircuitIsolatedError: it is held open by hand in this process.
      SharedStateUnavailableError: the server is away, and on_unavailable is FailClosed().
      SharedStateError: the server refused: something else lies at the key, or permission is lacking.
      TypeError: a trip rule that can't be shared.

    Source: as CircuitBreaker.
    """

    _one_chain = True

    def __init__(
        self,
        engine: ScriptEngine,
        name: str,
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
        on_unavailable: OnUnavailable,
        timeout: float = 0.05,
        report_every: float = 0.1,
    ) -> None:
        self.name: str = check_part("name", name)
        self._engine = check_engine(engine)
        self._keys = [f"trioresil:{{{name}}}:circuit"]
        self._channel = f"trioresil:{{{name}}}:circuit:changes"
        trip = ConsecutiveFailures(5) if trip is None else trip
        shared = [(_shared_rule(rule), getattr(rule, "slower_than", None)) for rule in _parts(trip)]
        self._slower_than = [each for _, each in shared]  # of each rule; None where it counts failures
        self._timed = trip.uses_clock
        self._on = check_on(on)
        self._is_failure = failure_test(self._on)
        self._on_result = function("on_result", on_result, signature="(result) -> bool")
        self._enforce = flag("enforce", enforce)
        self._timeout = seconds("timeout", timeout, zero=False)
        self._report_every = seconds("report_every", report_every, zero=False, finite=True)
        self._on_unavailable = check_on_unavailable(on_unavailable)
        rng = chance("rng", rng) or Random()
        open_times = _open_times(open_for, rng)
        self._rules = FleetRules(
            whole("probes", probes),
            whole("successes_to_close", successes_to_close),
            round(seconds("probe_lease", probe_lease, zero=False, finite=True) * 1e6),
            [round(each * 1e6) for each in open_times],
            [rule for rule, _ in shared],
        )
        longest = max(*open_times, *(rule.size / 1e6 for rule, _ in shared if rule.kind == "ratio"), probe_lease)
        self._words = config_words(self._rules, self._channel, round((HOUR + 10 * longest) * 1000))
        self._make_local = functools.partial(
            CircuitBreaker,
            trip=trip,
            open_for=open_for if isinstance(open_for, (int, float, Backoff)) else open_times,
            probes=probes,
            successes_to_close=successes_to_close,
            probe_lease=probe_lease,
            on=on,
            rng=rng,
            name=f"{name} (local)",
        )
        self._local: CircuitBreaker | None = None
        self._counter = trip.counter()  # of this process alone: when to hurry
        self._runs: list[list[int]] = []
        self._reporting = False
        self._hurry = trio.Event()
        self._told: Told | None = None
        self._epoch = -1
        self._announced = CLOSED
        self._until = -math.inf  # on Trio's clock: no call is let in before
        self._passing = False  # what the hot path asks
        self._listening = False
        self._asking: trio.Event | None = None
        self._isolations = 0
        self._changes = ParkingLot()
        self._numbers = itertools.count(1)
        self._process = ""
        self._blocks: dict[Task, list[_Pass]] = {}
        self._cause: BaseException | None = None
        self._failed_here = False  # since the last transition
        self._inside = self._opened = self._rejected = self._unavailable = 0

    # -- forms -----------------------------------------------------------------------------------------------------------

    def link(self, inner: Link) -> Link:
        """Return one link of a chain; see trioresil.abc.Policy."""
        timed, on_result = self._timed, self._on_result

        async def link(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            if _instruments.installed:
                _instruments.announce(self)
            if not self._passing:
                return await self._call_admitted(inner, args, kwargs)
            epoch = self._epoch
            began_at = trio.current_time() if timed else 0.0
            self._inside += 1
            try:
                result = await inner(args, kwargs)
            except BaseException as exc:
                self._inside -= 1
                if epoch == self._epoch and not is_no_verdict(exc):
                    self._count(self._is_failure(exc), began_at, exc)
                raise
            self._inside -= 1
            failed = on_result is not None and bool(on_result(result))
            if epoch == self._epoch:  # else the circuit has moved on, and this verdict is of the past
                self._count(failed, began_at, None)
            return result

        return link

    async def _call_admitted(self, inner: Link, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        taken = failed = error = None  # see CircuitBreaker._call_admitted
        try:
            taken = await self._take()
            try:
                result = await inner(args, kwargs)
            except BaseException as exc:
                error = exc
                failed = self._verdict(exc)
                raise
            failed = self._on_result is not None and bool(self._on_result(result))
            return result
        finally:
            if taken is not None:
                self._leave(taken, failed, error)
            del error  # its traceback holds this frame

    def admit(self) -> SharedAdmission:
        """Return one admission, an `async with` block whose exit gives the verdict, unless that is given by hand."""
        return SharedAdmission(self)

    @enable_ki_protection
    async def __aenter__(self) -> None:
        await check_cancelled()
        if _instruments.installed:
            _instruments.announce(self)
        taken = await self._take()
        self._blocks.setdefault(current_task(), []).append(taken)

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task = current_task()
        blocks = self._blocks.get(task)
        if not blocks:
            raise RuntimeError(f"{self.name}: a block must be left in the task that entered it")
        taken = blocks.pop()
        if not blocks:
            del self._blocks[task]
        self._leave_with(taken, error)

    # -- control ---------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> CircuitState:
        """What a call would meet now, as far as this process knows."""
        if self._isolations:
            return CircuitState.ISOLATED
        if self._told is None:
            return CircuitState.CLOSED
        state = _STATES[self._told.state]
        if state is CircuitState.OPEN and self._remaining() <= 0:
            return CircuitState.HALF_OPEN
        return state

    @property
    def enforce(self) -> bool:
        """False: count and report, reject nothing in this process. Settable."""
        return self._enforce

    @enforce.setter
    def enforce(self, value: bool) -> None:
        self._enforce = flag("enforce", value)
        self._changes.unpark_all()

    def open(self, seconds: float) -> None:
        """Open for so long, in all processes; an open time that lasts longer is kept. The server hears of it soon.

        Args:
          seconds (float, seconds, > 0): how long.
        """
        number("seconds", seconds, above=0, finite=True, unit="seconds")
        self._engine.start_soon(self._tell, "open", round(seconds * 1e6))

    def reset(self) -> None:
        """Close, in all processes, and forget what was counted. The server hears of it soon. Isolations stay."""
        self._engine.start_soon(self._tell, "reset")

    def isolate(self) -> SharedIsolation:
        """Reject all calls of this process until the returned token's `release()`; reference-counted."""
        return SharedIsolation(self).__enter__()

    def isolated(self) -> SharedIsolation:
        """Return a block in which all calls of this process are rejected: `with breaker.isolated(): ...`."""
        return SharedIsolation(self)

    async def wait_admittable(self) -> None:
        """Wait until a call could be let in, as a probe too. A hint and no promise: others may be let in first.

        Cancellation: a full checkpoint; nothing changes.
        """
        await check_cancelled()
        waited = False
        while self._enforce and (self._isolations or trio.current_time() < self._until):
            waited = True
            with trio.CancelScope(deadline=math.inf if self._isolations else self._until):
                await self._changes.park()
        if not waited:
            await cancel_shielded_checkpoint()

    def statistics(self) -> SharedCircuitBreakerStatistics:
        """Return a snapshot of what this process knows; the server is not asked."""
        told = self._told
        return SharedCircuitBreakerStatistics(
            name=self.name,
            state=self.state,
            enforced=self._enforce,
            isolations=self._isolations,
            remaining=self._remaining() if told is not None and told.state == OPEN else 0.0,
            level=told.level if told is not None else 0,
            probes_out=told.probes_out if told is not None else 0,
            inside=self._inside,
            opened=self._opened,
            rejected=self._rejected,
            unreported=sum(n for _, n in self._runs),
            unavailable=self._unavailable,
            available=self._engine.available,
            trip=self._counter.describe(),
            gauges=self._counter.gauges(),
        )

    def __repr__(self) -> str:
        away = "" if self._engine.available else ", the server is away"
        dry = "" if self._enforce else ", not enforced"
        return f"<trioresil.redis.SharedCircuitBreaker {self.name!r} {self.state.value}{dry}{away}>"

    # -- letting in ------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def _take(self) -> _Pass:
        """Let a call in, or raise; the server is asked only if nothing is known, or a probe may be let in."""
        try:
            taken = await self._admitted()
        except BaseException as exc:
            mark_unstarted(exc)
            raise
        self._inside += 1
        return taken

    async def _admitted(self) -> _Pass:
        self._listen()
        while True:
            if self._isolations:
                return await self._refuse(CircuitIsolatedError(self.name))
            try:
                if not self._engine.available:
                    raise EngineDownError(f"{self._engine.name} is away")
                if self._told is None:
                    await self._ask_alone("look")
                elif self._told.state == CLOSED:
                    return _Pass(self._epoch, trio.current_time() if self._timed else 0.0)
                elif (remaining := self._remaining()) > 0:
                    known = remaining if self._told.state == OPEN else None
                    return await self._refuse(CircuitOpenError(self.name, known))
                else:
                    probe = f"{self._process}.{next(self._numbers)}"
                    if await self._ask_alone("admit", probe):
                        return _Pass(probe=probe)
            except EngineDownError as exc:
                return await self._without_server(exc)
            except ScriptRefusedError as exc:
                raise SharedStateError(self.name, self._keys[0], str(exc)) from None

    async def _ask_alone(self, step: str, probe: str = "") -> bool:
        """Ask the server, if nobody of this process does; else wait for what it says to that. True if a probe was let in."""
        if self._asking is not None:
            await self._asking.wait()
            return False

        def give_back(reply: Reply) -> None:
            if reply[0]:
                self._judge_soon(probe, "none")

        asking = self._asking = trio.Event()
        try:
            return await self._eval(step, *([probe] if probe else []), late=give_back)
        finally:
            self._asking = None
            asking.set()

    async def _refuse(self, error: CircuitOpenError) -> _Pass:
        if not self._enforce:
            _instruments.emit(CallRejected, policy=self, error=error, enforced=False)
            await cancel_shielded_checkpoint()
            return _Pass()
        await self._reject(error)

    async def _reject(self, error: RejectedError) -> NoReturn:
        self._rejected += 1
        try:
            await _instruments.reject(self, error)
        finally:
            del error  # its traceback holds this frame

    async def _without_server(self, error: EngineDownError) -> _Pass:
        """Do what is to be done while the server is away."""
        self._unavailable += 1
        if isinstance(self._on_unavailable, FailClosed):
            await self._reject(SharedStateUnavailableError(self.name, self._keys[0], str(error)))
        if isinstance(self._on_unavailable, FailOpen):
            await cancel_shielded_checkpoint()
            return _Pass()
        if self._local is None:
            self._local = self._make_local()
            if self._told is not None and self._told.state == OPEN and self._remaining() > 0:
                self._local.open(self._remaining())
        admission = self._local.admit()
        try:
            admission.__enter__()
        except CircuitOpenError as exc:
            return await self._refuse(CircuitOpenError(self.name, exc.retry_after))
        await cancel_shielded_checkpoint()
        return _Pass(local=admission)

    # -- verdicts --------------------------------------------------------------------------------------------------------

    def _verdict(self, error: BaseException | None) -> bool | None:
        if error is None:
            return False
        return None if is_no_verdict(error) else self._is_failure(error)

    def _leave_with(self, taken: _Pass, error: BaseException | None) -> None:
        verdict = None  # what stands if `on` raises
        try:
            verdict = self._verdict(error)
        finally:
            self._leave(taken, verdict, error)

    @enable_ki_protection
    def _leave(self, taken: _Pass, failed: bool | None, error: BaseException | None) -> None:
        self._inside -= 1
        if taken.local is not None:
            if failed is None:
                taken.local.ignore()
            elif failed:
                taken.local.fail(error)
            taken.local.__exit__(None, None, None)
        elif taken.probe:
            self._note_failure(failed, error)
            self._judge_soon(taken.probe, "none" if failed is None else "failed" if failed else "passed")
        elif failed is not None and taken.epoch == self._epoch:
            self._count(failed, taken.began_at, error)

    def _note_failure(self, failed: bool | None, error: BaseException | None) -> None:
        if failed:
            self._failed_here, self._cause = True, error

    def _judge_soon(self, probe: str, verdict: str) -> None:
        self._engine.start_soon(self._tell, "judge", probe, verdict)

    def _count(self, failed: bool, began_at: float, error: BaseException | None) -> None:
        """Note an outcome for the next report; if those of this process alone would open the circuit, report at once."""
        now = trio.current_time() if self._timed else 0.0
        duration = now - began_at
        bits = 0
        for number_, slower_than in enumerate(self._slower_than):
            if failed if slower_than is None else duration > slower_than:
                bits |= 1 << number_
        if self._runs and self._runs[-1][0] == bits:
            self._runs[-1][1] += 1
        else:
            self._runs.append([bits, 1])
        self._note_failure(failed, error)
        if self._counter.record(now, failed, duration):
            self._counter.clear()
            self._hurry.set()
        elif len(self._runs) >= MOST_RUNS:
            self._hurry.set()
        if not self._reporting:
            self._engine.start_soon(self._report)
            self._reporting = True

    async def _report(self) -> None:
        """Tell the server of outcomes as long as there are any."""
        try:
            while self._runs:
                try:
                    with trio.move_on_after(self._report_every):
                        await self._hurry.wait()
                finally:  # what a process has seen last is told too when its engine is closed
                    self._hurry = trio.Event()
                    runs, self._runs = self._runs, []
                    if runs:
                        await self._tell("report", self._epoch, *itertools.chain.from_iterable(runs))
        finally:
            self._reporting = False

    async def _tell(self, step: str, *words: Argument) -> None:
        # Outcomes of an outage say nothing later, and whoever is let in next is told what is wrong.
        with suppress(EngineDownError, ScriptRefusedError), trio.CancelScope(shield=True):  # bounded by the time-out
            await self._eval(step, *words)

    # -- what is known ---------------------------------------------------------------------------------------------------

    async def _eval(self, step: str, *words: Argument, late: Callable[[Reply], None] | None = None) -> bool:
        knew = self._told
        reply = await self._engine.eval(
            CIRCUIT, self._keys, [*self._words, step, *words], within=self._timeout, late=late
        )
        told = told_in([each.decode() for each in reply[1:]])
        if knew is not None and told[:2] < knew[:2]:
            self._told = None  # the server has forgotten, and its clock is behind the one that it had
        self._learn(told)
        return bool(reply[0])

    def _listen(self) -> None:
        if not self._listening:
            self._listening = True
            self._process = secrets.token_hex(8)
            self._engine.subscribe(self._channel, self._hear)
            self._engine.watch(self._changed)

    def _hear(self, message: str | None) -> None:
        if message is None:  # some may have been missed
            self._engine.start_soon(self._tell, "look")
        else:
            self._learn(told_in(message.split(" ")))

    def _changed(self, available: bool) -> None:
        """Hear that the server went away, or came back: then what was known is of the past."""
        if available:
            self._told = self._local = None
        self._update()

    def _learn(self, told: Told) -> None:
        """Take what the server said, unless something later is known."""
        known = self._told
        if known is not None and told[:2] < known[:2]:
            return
        is_new = told.epoch != self._epoch
        self._told = told
        self._epoch = told.epoch
        self._until = trio.current_time() + told.remaining
        if is_new:
            self._runs.clear()
            self._counter.clear()
            self._announce(told)
        self._update()

    def _announce(self, told: Told) -> None:
        before, self._announced = self._announced, told.state
        cause, failed_here = self._cause, self._failed_here
        self._cause, self._failed_here = None, False
        if told.state == OPEN:
            self._opened += 1
            _instruments.emit(
                CircuitOpened,
                policy=self,
                open_for=told.remaining,
                level=told.level,
                error=None if told.by_hand else cause,
                by_hand=told.by_hand,
                elsewhere=not (failed_here or told.by_hand),
            )
        elif told.state == HALF_OPEN:
            _instruments.emit(CircuitHalfOpened, policy=self)
        elif before != CLOSED:
            _instruments.emit(CircuitClosed, policy=self, by_hand=told.by_hand)
        del cause

    def _update(self) -> None:
        closed = self._told is not None and self._told.state == CLOSED
        self._passing = closed and not self._isolations and self._engine.available
        self._changes.unpark_all()

    def _remaining(self) -> float:
        try:
            return max(0.0, self._until - trio.current_time())
        except RuntimeError:
            return 0.0

    def _isolate(self, change: int) -> None:
        self._isolations += change
        self._update()


class SharedAdmission:
    """One call let in by a SharedCircuitBreaker, as an `async with` block."""

    __slots__ = ("_breaker", "_by_hand", "_entered", "_error", "_taken", "_verdict")

    def __init__(self, breaker: SharedCircuitBreaker) -> None:
        self._breaker = breaker
        self._taken: _Pass | None = None
        self._entered = self._by_hand = False
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
        if self._taken is None:
            raise RuntimeError(
                "fail() and ignore() belong inside of the admission's block: outside they would change nothing"
            )

    @enable_ki_protection
    async def __aenter__(self) -> SharedAdmission:
        if self._entered:
            raise RuntimeError("an admission is for one block: call breaker.admit() again for the next")
        await check_cancelled()
        if _instruments.installed:
            _instruments.announce(self._breaker)
        self._taken = await self._breaker._take()
        self._entered = True
        return self

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        taken, self._taken = self._taken, None
        if taken is None:
            raise RuntimeError("this admission's block was not entered, or has been left already")
        if self._by_hand:
            self._breaker._leave(taken, self._verdict, self._error)
        else:
            self._breaker._leave_with(taken, error)
        self._error = None


class SharedIsolation:
    """Holds a shared circuit open by hand in this process, until `release()` or the end of the block."""

    __slots__ = ("_breaker", "_held")

    def __init__(self, breaker: SharedCircuitBreaker) -> None:
        self._breaker = breaker
        self._held = False

    @enable_ki_protection
    def release(self) -> None:
        """Let go. Does nothing the second time."""
        if self._held:
            self._held = False
            self._breaker._isolate(-1)

    @enable_ki_protection
    def __enter__(self) -> SharedIsolation:
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


def _parts(trip: object) -> tuple[TripRule, ...]:
    if not isinstance(trip, TripRule):
        raise TypeError(f"trip must be a rule such as ConsecutiveFailures(5), or rules joined by |, not {trip!r}")
    return trip.rules if isinstance(trip, AnyOf) else (trip,)


def _shared_rule(rule: TripRule) -> SharedRule:
    if isinstance(rule, ConsecutiveFailures):
        return SharedRule("row", rule.n, 0, 0)
    if isinstance(rule, FailuresOf):
        return SharedRule("of", rule.k, rule.of, 0)
    if isinstance(rule, FailureRatio | SlowRatio):
        return SharedRule("ratio", rule.ratio, round(rule.window * 1e6), rule.min_calls)
    raise TypeError(
        "trip must be made of ConsecutiveFailures, FailuresOf, FailureRatio and SlowRatio, which a server can judge, "
        f"not {rule!r}"
    )


def _open_times(open_for: float | Backoff | Iterable[float], rng: Random) -> list[float]:
    """Return the open times of the levels, as many as there are different ones."""
    if isinstance(open_for, (int, float)):
        return [seconds("open_for", open_for, zero=False, finite=True)]
    backoff = as_backoff("open_for", open_for)
    most = int(min(getattr(backoff, "peak", MOST_LEVELS) + 1, MOST_LEVELS))
    times = list(itertools.islice(backoff.delays(rng), len(open_for) if isinstance(open_for, list | tuple) else most))
    return [max(each, 1e-6) for each in times]
