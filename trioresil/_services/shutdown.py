"""open_shutdown: the end of a program, from the signal to the cancellation.

The law of this file:

1. What was asked for is done in the same step: not ready, and admission closed if there is no lead. Only time and signals
   need tasks.
2. Admission is closed for all in one step, in the order of registration. One that fails to close keeps none of the others open.
3. The body is cancelled by a task of the service, through its nursery; so the exit swallows that cancellation and no other.
4. Signals are caught from the first step of the block until the body has ended or is cancelled; from then on they do what they
   did before.
5. Nobody is called unfinished before he had a chance to say that he is idle: a few schedule points, that no clock sees.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import AsyncIterator, Iterable
from contextvars import copy_context
from types import TracebackType
from typing import Any, Final, Literal, Protocol, TypeAlias

import attrs
import trio
from trio.lowlevel import (
    ParkingLot,
    RunVar,
    cancel_shielded_checkpoint,
    checkpoint,
    current_clock,
    disable_ki_protection,
    enable_ki_protection,
)

from .. import _instruments
from .._checks import seconds, text
from .._errors import in_another_run, outside_trio
from .._events import AdmissionClosed, Event, ShutdownCancelled, ShutdownRequested
from .._kernel.shutdown import Course
from ..abc import Drainable
from ._tasks import Tasks

Outcome: TypeAlias = Literal["open", "running", "drained", "failed"]

LOOKS: Final = 3  # schedule points: an idle pool of an HTTP client, the slowest of ours to say so, needs two
_caught: RunVar[dict[signal.Signals, str]] = RunVar("trioresil_caught_signals")


class Readiness(Protocol):
    """What a shutdown needs of a health monitor."""

    draining: bool


@attrs.frozen(kw_only=True)
class DrainReport:
    """What became of one registered thing."""

    name: str
    """Its name; that of its class, if it has none."""
    outcome: Literal["open", "running", "drained", "failed"]
    """open: it was not closed. running: work was inside when the body was cancelled or had ended, or is now, before that.
    drained: all that it had let in is done. failed: its `close_admission` or `wait_drained` raised an Exception."""
    seconds: float
    """How long after the closing that was, in seconds."""
    error: Exception | None
    """What was raised, if it failed."""


@attrs.frozen(kw_only=True)
class ShutdownReport:
    """What a shutdown did so far; after its block, what it did."""

    name: str
    """Name of the shutdown."""
    reason: str | None
    """Who asked for it: the name of a signal, or what `request` was given. None: nobody did."""
    seconds: float
    """How long it took from then, in seconds, until the body ended, or until now."""
    cancelled: str | None
    """The reason for which the body was cancelled. None: it was not."""
    drainables: tuple[DrainReport, ...]
    """What was registered, in that order."""

    @property
    def running(self) -> tuple[DrainReport, ...]:
        """Those of the drainables that had work inside."""
        return tuple(each for each in self.drainables if each.outcome == "running")

    @property
    def clean(self) -> bool:
        """Whether nothing was cut off: the body was not cancelled, and nothing that was closed was left running or failed."""
        return self.cancelled is None and all(each.outcome in ("open", "drained") for each in self.drainables)


@attrs.frozen(kw_only=True)
class ShutdownStatistics:
    """Snapshot of a Shutdown."""

    name: str
    """Its name."""
    phase: Literal["serving", "lead", "draining", "cancelled", "ended"]
    """How far it is; see Shutdown.phase."""
    reason: str | None
    """Who asked for it. None: nobody has."""
    signals: int
    """Signals caught so far."""
    registered: int
    """Things that are closed and drained."""
    running: int
    """How many of them are closed and not drained yet."""
    closes_at: float
    """When admission closes, or was closed, on Trio's clock of the run; math.inf: nobody has asked for it."""
    cancels_at: float
    """When the body is cancelled, if it has not ended, on the same clock; math.inf: never, as things stand."""


class open_shutdown:
    """End a program without losing the work it has accepted.

    It stands around all that works: server, supervisors, workers; what those need, as pools and a health monitor, stands around
    it. On a signal or on request, this process is first no longer ready, but serves on until the load balancers have noticed
    (`lead`); then it admits nothing more, and what was admitted is finished (`grace`); what is left is cancelled, with a reason.
    A second signal cancels at once. It opens no server and waits for none: the body does, and ends when it is done.

    Synopsis::

        async with trioresil.open_shutdown(health=monitor) as shutdown:
            shutdown.register(bulkhead)
            await hypercorn.trio.serve(app, config, shutdown_trigger=shutdown.wait)
        sys.exit(0 if shutdown.report.clean else 1)

    There is no `serve_` form: what a shutdown cancels is its body, and that would have none.

    Sharing: any task of the run may register, wait and request. Only one open shutdown may catch a signal.

    Args:
      signals (iterable of signal.Signals): what asks for it. SIGINT leaves no lead, as somebody at a terminal is waiting.
        Empty: `request` does; for tests, libraries, and threads other than the main thread, which get no signals.
        Default: SIGTERM and SIGINT.
      lead (float, seconds, >= 0, finite): how long to serve on while not ready. Default: 5.
      grace (float, seconds, >= 0): how long from then on the body may take to end. Default: 20, so that both together stay below
        the 30 s after which Kubernetes kills.
      health (object with a settable `draining`): is set to True at once; a HealthMonitor. Default: None.
      name (str): its name in reasons, events and statistics. Default: "shutdown".

    Cancellation: entering checks nothing and waits for nothing. Leaving waits for nothing either, but lets other tasks run.
    A body that is cancelled from outside, or raises, ends at once, without grace.

    Raises:
      RuntimeError: signals are wanted in another thread than the main thread, or are caught by another open shutdown.

    Source: Kubernetes, "Pod Lifecycle", for the order of the steps and the 30 s.
    """

    def __init__(
        self,
        *,
        signals: Iterable[int] = (signal.SIGTERM, signal.SIGINT),
        lead: float = 5.0,
        grace: float = 20.0,
        health: Readiness | None = None,
        name: str = "shutdown",
    ) -> None:
        self.name: str = text("name", name)
        self._signals = _check_signals(signals)
        self._lead = seconds("lead", lead, finite=True)
        self._grace = seconds("grace", grace)
        if health is not None and not _is_settable(health):
            raise TypeError(f"health must be an object with a settable `draining`, a HealthMonitor, not {health!r}")
        self._health = health
        self._shutdown: Shutdown | None = None

    @enable_ki_protection
    async def __aenter__(self) -> Shutdown:
        if self._shutdown is not None:
            raise RuntimeError(
                f"{self.name}: this shutdown was opened already: call open_shutdown() for each `async with`"
            )
        try:
            shutdown = Shutdown(self)
        except RuntimeError as exc:
            raise outside_trio(exc) from None
        receiving = _receive(self.name, self._signals) if self._signals else None
        receiver = None if receiving is None else receiving.__enter__()
        await shutdown._tasks.__aenter__()
        self._shutdown = shutdown
        shutdown._tasks.start_soon(shutdown._keep_time)
        if receiving is not None:
            shutdown._tasks.start_soon(shutdown._listen, receiving, receiver)
        if _instruments.installed:
            _instruments.announce(shutdown)
        return shutdown

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        shutdown = self._shutdown
        assert shutdown is not None
        shutdown._tasks.check_task()
        shutdown._course.end()
        if error is None:
            await shutdown._let_them_look(cancel_shielded_checkpoint)
        shutdown._end()
        return await shutdown._tasks.__aexit__(kind, error, traceback)


class Shutdown:
    """What `open_shutdown` opens. It is not built by hand.

    Attributes:
      name (str): its name.
    """

    def __init__(self, options: open_shutdown, /) -> None:
        self._clock = current_clock()
        self.name: str = options.name
        self._course = Course(options._lead, options._grace)
        self._health = options._health
        self._drains: list[_Drain] = []
        self._is_announced = self._is_closed = False
        self._stopped_at = math.inf  # when the body was cancelled, or had ended
        self._ended_at = math.inf
        self._closed = trio.Event()
        self._drained = ParkingLot()
        self._timer = trio.CancelScope()
        self._tasks = Tasks(self.name)
        self._context = copy_context()

    @property
    def phase(self) -> Literal["serving", "lead", "draining", "cancelled", "ended"]:
        """How far it is.

        serving: nobody has asked for it. lead: not ready, and serving on. draining: admission is closed. cancelled: so is the
        body. ended: the block has been left.
        """
        return self._course.phase

    @property
    def requested(self) -> bool:
        """Whether somebody has asked for it."""
        return self._course.reason is not None

    @property
    def report(self) -> ShutdownReport:
        """What it did so far; after the block, what it did. Works outside of a run."""
        until = min(self._ended_at, self._clock.current_time())
        stopped_at = min(self._stopped_at, until)
        course = self._course
        return ShutdownReport(
            name=self.name,
            reason=course.reason,
            seconds=max(0.0, until - course.requested_at),
            cancelled=None if self._stopped_at == math.inf else course.cancel_reason,
            drainables=tuple(each.report(stopped_at) for each in self._drains),
        )

    @enable_ki_protection
    def register(self, *drainables: Drainable) -> None:
        """Have things closed to new work when the lead is over, and watched until they are drained. Synchronous.

        Register the doors, where work comes in. What the work needs on its way, as a pool of connections, is closed by its own
        block after the body: closed at the same time as the door it would fail the work behind it.

        What was registered before is not registered twice. What comes after the closing is closed at once.

        Args:
          *drainables (Drainable): objects with `close_admission()` and `wait_drained()`: a Bulkhead, a Pool, workers, the
            transports of trioresil.httpx.

        Raises:
          TypeError: one is no Drainable. None has been registered.
          RuntimeError: the block has been left.
        """
        for each in drainables:
            if isinstance(each, type) or not isinstance(each, Drainable):
                raise TypeError(f"register() takes objects with close_admission() and wait_drained(), not {each!r}")
        self._check_run()
        if self.phase == "ended":
            raise RuntimeError(f"{self.name}: this shutdown has ended, nothing would close what is registered now")
        for each in drainables:
            if all(each is not known.drainable for known in self._drains):
                drain = _Drain(each)
                self._drains.append(drain)
                if self._is_closed:
                    self._close(drain)

    @enable_ki_protection
    def request(self, reason: str = "requested", *, lead: float | None = None) -> None:
        """Ask for the shutdown. Synchronous; does nothing if somebody has asked before, or the block has been left.

        The first signal after it doesn't cancel, but a SIGINT ends the lead.

        Args:
          reason (str): why, for the report, for events and for the reason of a cancellation. Default: "requested".
          lead (float, seconds, >= 0, finite): instead of that of the shutdown; with 0, admission is closed when this returns.
            Default: None, that of the shutdown.
        """
        text("reason", reason)
        lead = None if lead is None else seconds("lead", lead, finite=True)
        self._check_run()
        self._course.request(self._clock.current_time(), reason, lead)
        self._go_on()

    async def wait(self) -> None:
        """Wait until admission is closed, or the block has been left. Give it to a server as its `shutdown_trigger`.

        Cancellation: a full checkpoint; nothing changes.
        """
        self._check_run()
        await self._closed.wait()

    async def wait_drained(self) -> None:
        """Wait until admission is closed and all that is registered is drained or has failed, or until the block has been left.

        Cancellation: a full checkpoint; nothing changes.
        """
        await self.wait()
        while self._running() and self.phase != "ended":
            await self._drained.park()

    def statistics(self) -> ShutdownStatistics:
        """Return a snapshot; works outside of a run."""
        course = self._course
        return ShutdownStatistics(
            name=self.name,
            phase=course.phase,
            reason=course.reason,
            signals=course.signals,
            registered=len(self._drains),
            running=len(self._running()),
            closes_at=course.closes_at,
            cancels_at=course.cancels_at,
        )

    def __repr__(self) -> str:
        reason = f" ({self._course.reason})" if self.requested else ""
        running = f", {len(self._running())}/{len(self._drains)} running" if self._is_closed else ""
        return f"<trioresil.Shutdown {self.name!r} {self.phase}{reason}{running}>"

    # -- inside ----------------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Do what the course has decided, but for the cancellation."""
        course = self._course
        if course.phase in ("serving", "ended"):
            return
        self._timer.deadline = course.due_at
        if not self._is_announced:
            self._is_announced = True
            if self._health is not None:
                self._health.draining = True
            assert course.reason is not None
            lead = course.closes_at - course.requested_at
            self._emit(ShutdownRequested, reason=course.reason, lead=lead, grace=course.grace)
        if course.phase != "lead" and not self._is_closed:
            self._is_closed = True
            for each in list(self._drains):
                self._close(each)
            self._closed.set()
            self._emit(AdmissionClosed, drainables=tuple(each.name for each in self._drains))

    def _close(self, drain: _Drain) -> None:
        drain.closed_at = self._clock.current_time()
        try:
            drain.drainable.close_admission()
        except Exception as exc:
            drain.error, drain.settled_at = exc, drain.closed_at
        else:
            self._tasks.start_soon(self._watch, drain, name=f"{self.name}: wait until {drain.name} is drained")

    async def _watch(self, drain: _Drain) -> None:
        try:
            await _wait_drained(drain.drainable)
        except Exception as exc:
            drain.error = exc
        drain.settled_at = self._clock.current_time()
        self._drained.unpark_all()

    def _running(self) -> list[_Drain]:
        return [each for each in self._drains if each.closed_at < math.inf and each.settled_at == math.inf]

    async def _keep_time(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._course.due_at) as self._timer:
                await trio.sleep_forever()
            self._course.advance(self._clock.current_time())
            await self._carry_out()

    @enable_ki_protection
    async def _listen(self, receiving: contextlib.AbstractContextManager[object], receiver: AsyncIterator[int]) -> None:
        try:
            async for number in receiver:
                now, name = self._clock.current_time(), signal.Signals(number).name
                self._course.signal(now, name, hasty=number == signal.SIGINT)
                await self._carry_out()
        finally:
            receiving.__exit__(None, None, None)

    async def _carry_out(self) -> None:
        self._go_on()
        if self.phase == "cancelled":
            await self._let_them_look(checkpoint)
        if self.phase == "cancelled" and self._stopped_at == math.inf:  # the block may have been left meanwhile
            self._stopped_at = self._clock.current_time()
            reason = f"{self.name}: {self._course.cancel_reason}"
            self._emit(ShutdownCancelled, reason=reason, running=tuple(each.name for each in self._running()))
            self._tasks.cancel(reason)

    async def _let_them_look(self, schedule_point: Any) -> None:
        """Give whatever was closed the steps that it needs to say that it is idle."""
        for _ in range(LOOKS):
            if self._running():
                await schedule_point()

    def _end(self) -> None:
        self._ended_at = self._clock.current_time()
        self._closed.set()
        self._drained.unpark_all()

    def _check_run(self) -> None:
        try:
            clock = current_clock()
        except RuntimeError as exc:
            raise outside_trio(exc) from None
        if clock is not self._clock:
            raise in_another_run(repr(self.name))

    def _emit(self, kind: type[Event], **fields: Any) -> None:
        """Report to the instruments of the task that opened the shutdown, whoever asks for it."""
        self._context.copy().run(_instruments.emit, kind, policy=self, **fields)


class _Drain:
    """One registered thing, and what is known of it."""

    __slots__ = ("closed_at", "drainable", "error", "name", "settled_at")

    def __init__(self, drainable: Drainable) -> None:
        self.drainable = drainable
        name = getattr(drainable, "name", None)
        self.name = name if isinstance(name, str) else type(drainable).__name__
        self.closed_at = self.settled_at = math.inf
        self.error: Exception | None = None

    def report(self, stopped_at: float) -> DrainReport:
        outcome: Outcome = "drained"
        if self.closed_at == math.inf:
            outcome = "open"
        elif self.error is not None:
            outcome = "failed"
        elif self.settled_at == math.inf:
            outcome = "running"
        until = min(self.settled_at, stopped_at)
        return DrainReport(name=self.name, outcome=outcome, seconds=max(0.0, until - self.closed_at), error=self.error)


@contextlib.contextmanager
def _receive(owner: str, signals: frozenset[signal.Signals]) -> Any:
    """Catch signals; a context manager that may be left by another task than the one that entered it."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            f"{owner}: signals reach the main thread only: open this shutdown there, or with signals=() and call request()"
        )
    caught = _caught.get({})
    _caught.set(caught)
    for each in sorted(signals & caught.keys()):
        raise RuntimeError(
            f"{owner}: {each.name} is caught by {caught[each]!r} already: give one of them other signals"
        )
    with trio.open_signal_receiver(*signals) as receiver:
        caught.update(dict.fromkeys(signals, owner))
        try:
            yield receiver
        finally:
            for each in signals:
                del caught[each]


def _is_settable(health: object) -> bool:
    """Tell whether its `draining` is there, and no property that can only be read: at the signal it is too late to find out."""
    declared = getattr(type(health), "draining", None)
    return hasattr(health, "draining") and not (isinstance(declared, property) and declared.fset is None)


def _check_signals(signals: Any) -> frozenset[signal.Signals]:
    wanted = "signals must be an iterable of signals that can be caught, as {SIGTERM, SIGINT}, or empty"
    if isinstance(signals, (str, bytes)) or not isinstance(signals, Iterable):
        raise TypeError(f"{wanted}, not {signals!r}")
    found = set()
    for each in signals:
        if isinstance(each, bool) or not isinstance(each, int):
            raise TypeError(f"{wanted}, not one with {each!r}")
        try:
            found.add(signal.Signals(each))
        except ValueError:
            raise ValueError(f"{wanted}, not one with {each!r}") from None
    for each in found:
        if each.name in ("SIGKILL", "SIGSTOP"):
            raise ValueError(f"{wanted}, not one with {each.name}")
    return frozenset(found)


@disable_ki_protection  # what is called is the user's
async def _wait_drained(drainable: Drainable) -> None:
    await drainable.wait_drained()
