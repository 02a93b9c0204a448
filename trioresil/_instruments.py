"""Who is listening: found through the task's context, as cancellation is found through the task tree.

`installed` counts the instruments that are installed anywhere in the process. Everything on a hot path asks it first and pays
nothing else while it is 0. `tracing` counts those of them that want to hear of starts too, for spans: starts of calls, and
starts and ends of attempts, are reported to them only. Events are built only for listeners; where nobody listens, the few that
an operator must see are written to the standard logger "trioresil", at most MAX_WARNINGS_PER_SECOND for each name in each second
of the clock.
"""

from __future__ import annotations

import itertools
import logging
import threading
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, NoReturn
from weakref import WeakValueDictionary

import trio
from trio.lowlevel import RunVar, checkpoint, enable_ki_protection

from . import _events
from ._errors import RejectedError, in_seconds, is_unstarted, outside_trio
from ._events import AttemptFinished, AttemptStarted, CallStarted, Event, Outcome
from ._floods import Limiter
from ._links import Link, mark_unstarted
from ._redaction import one_line, safe_error, safe_repr
from .abc import Instrument

MAX_WARNINGS_PER_SECOND: Final = 10

installed = 0
installed_for_runs = 0  # those of instrument_run among them
tracing = 0  # those that trace among them
_lock = threading.Lock()
_keys = itertools.count(1)
_logger = logging.getLogger("trioresil")


class _Listener:
    """One installation of an instrument: what it was told of, and whether it still works."""

    __slots__ = ("_seen", "active", "instrument", "traces")

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self.active = True
        self.traces = bool(getattr(instrument, "traces", False))
        self._seen: WeakValueDictionary[int, Any] = WeakValueDictionary()  # by identity: a policy may define equality

    def announce(self, policy: Any) -> None:
        if self._seen.get(id(policy)) is not policy:
            self._seen[id(policy)] = policy
            self.record(_events.PolicySeen(policy=policy))

    def record(self, event: Event) -> None:
        if not self.active:
            return
        try:
            self.instrument.record(event)
        except Exception as exc:
            self.active = False
            frames = "".join(traceback.format_tb(exc.__traceback__))  # no more: its context is what the call has raised
            shown = safe_repr(self.instrument), safe_error(exc), frames.rstrip()
            _logger.error("the instrument %s raised and is switched off: %s\n%s", *shown)


_in_context: ContextVar[tuple[_Listener, ...]] = ContextVar("trioresil_instruments", default=())
_in_run: RunVar[tuple[_Listener, ...]] = RunVar("trioresil_instruments", default=())


class instrument:
    """Install instruments for this block and for every task started in it.

    Nested blocks add up; the same instrument hears each event once. When the block ends, tasks that were started in it and
    live on are no longer heard.

    Synopsis::

        with trioresil.instrument(recorder):
            await pipeline.call(fetch, url)

    Args:
      *instruments (Instrument): objects with a `record(event)` method. An instrument that raises is logged once and switched
        off for this block; the call that it listened to is not affected.
    """

    def __init__(self, *instruments: Instrument) -> None:
        self._instruments = tuple(_check(each) for each in instruments)
        self._listeners: tuple[_Listener, ...] | None = None

    @enable_ki_protection
    def __enter__(self) -> None:
        if self._listeners is not None:
            raise RuntimeError("this instrument(...) block is already open: make a new one for each with-statement")
        self._listeners = tuple(_Listener(each) for each in self._instruments)
        _in_context.set(_in_context.get() + self._listeners)
        _count(1, self._listeners)

    @enable_ki_protection
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        listeners, self._listeners = self._listeners, None
        assert listeners is not None
        _remove(listeners)
        # Not by a token: a generator's block may be left in another context, or before one that was opened in it.
        _in_context.set(tuple(each for each in _in_context.get() if each not in listeners))


def instrument_run(*instruments: Instrument) -> None:
    """Install instruments for every task of this trio.run, until it ends.

    For a place whose context the interesting tasks don't inherit, as an ASGI lifespan. Call it inside of the run.

    Args:
      *instruments (Instrument): objects with a `record(event)` method.

    Raises:
      RuntimeError: outside of a trio.run.
    """
    listeners = tuple(_Listener(_check(each)) for each in instruments)
    try:
        present = _in_run.get()
    except RuntimeError as exc:
        raise outside_trio(exc) from None
    _in_run.set(present + listeners)
    _count(1, listeners, for_run=True)
    trio.lowlevel.add_instrument(_UntilEnd(listeners))


class _UntilEnd(trio.abc.Instrument):
    def __init__(self, listeners: tuple[_Listener, ...]) -> None:
        self._listeners = listeners

    def after_run(self) -> None:
        _remove(self._listeners, for_run=True)


def _check(candidate: Instrument) -> Instrument:
    if isinstance(candidate, type) or not callable(getattr(candidate, "record", None)):
        raise TypeError(f"an instrument must be an object with a record(event) method, not {candidate!r}")
    return candidate


def _count(sign: int, listeners: tuple[_Listener, ...], *, for_run: bool = False) -> None:
    global installed, installed_for_runs, tracing
    change = sign * len(listeners)
    with _lock:
        installed += change
        installed_for_runs += change if for_run else 0
        tracing += sign * sum(each.traces for each in listeners)


def _remove(listeners: tuple[_Listener, ...], *, for_run: bool = False) -> None:
    for listener in listeners:
        listener.active = False
    _count(-1, listeners, for_run=for_run)


def listeners() -> list[_Listener]:
    """Return who hears this task, each instrument once."""
    if not installed:
        return []
    heard_by = [each for each in (*_of_run(), *_in_context.get()) if each.active]
    if len(heard_by) < 2:
        return heard_by
    unique: dict[int, _Listener] = {}
    for each in heard_by:
        unique.setdefault(id(each.instrument), each)
    return list(unique.values())


def _of_run() -> tuple[_Listener, ...]:
    if not installed_for_runs:  # asked first, because looking up a run variable costs more than all the rest
        return ()
    try:
        return _in_run.get()
    except RuntimeError:
        return ()


def announce(policy: Any) -> None:
    """Tell each listener of a policy that it has not seen before. Call it where a policy is used, if `installed`."""
    for listener in listeners():
        listener.announce(policy)


def emit(kind: type[Event], /, **fields: Any) -> None:
    """Report a fact: to those who listen, or else, if an operator must see it, to the logger."""
    heard_by = listeners()
    if heard_by:
        event = kind(**fields)
        for listener in heard_by:
            listener.record(event)
    elif kind in _WARNINGS:
        _warn(kind, fields)


def begin(kind: type[CallStarted] | type[AttemptStarted], /, **fields: Any) -> int:
    """Report the start of something to those who trace; return the key for its end, 0 if nobody here does."""
    heard_by = [each for each in listeners() if each.traces] if tracing else []
    if not heard_by:
        return 0
    key = next(_keys)
    event = kind(key=key, **fields)
    for listener in heard_by:
        listener.record(event)
    return key


def end_attempt(key: int, /, **fields: Any) -> None:
    """Report the end of an attempt, whose start was reported, to those who trace."""
    heard_by = [each for each in listeners() if each.traces]
    if heard_by:
        event = AttemptFinished(key=key, **fields)
        for listener in heard_by:
            listener.record(event)


def outcome_of(error: BaseException) -> Outcome:
    """Return how a call ended that raised this."""
    return "cancelled" if not isinstance(error, Exception) else "rejected" if is_unstarted(error) else "failure"


def traced_attempts(policy: Any, inner: Link) -> Link:
    """Return a link that reports each call of `inner` as an attempt of one call; `inner` itself if nobody here traces."""
    if not any(each.traces for each in listeners()):
        return inner
    number = 0

    async def attempt(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        nonlocal number
        number += 1
        facts: dict[str, Any] = {"policy": policy, "attempt": number}
        key, began_at = begin(AttemptStarted, **facts), trio.current_time()
        try:
            result = await inner(args, kwargs)
        except BaseException as exc:
            took = trio.current_time() - began_at
            end_attempt(key, **facts, outcome=outcome_of(exc), seconds=took, error=exc)
            raise
        end_attempt(key, **facts, outcome="success", seconds=trio.current_time() - began_at, error=None)
        return result

    return attempt


async def reject(policy: Any, error: RejectedError) -> NoReturn:
    """Report a rejection, pass a full checkpoint so that no loop over rejections stops the program, and raise it."""
    emit(_events.CallRejected, policy=policy, error=error)
    try:
        await checkpoint()
    except BaseException as exc:
        mark_unstarted(exc)
        raise
    try:
        raise error
    finally:
        del error  # its traceback holds this frame


_WARNINGS: Final[dict[type[Event], str]] = {
    _events.RetryScheduled: "attempt {attempt} failed, the next in {delay}: {cause}",
    _events.RetryGaveUp: "gave up after attempt {attempts} and {waited} of waiting ({reason}): {cause}",
    _events.CircuitOpened: "the circuit opened for {open_for}: {cause}",
    _events.CircuitClosed: "the circuit closed",
    _events.ChildFailed: "child {child!r} failed, and {outcome}: {cause}",
    _events.ChildRestarted: "child {child!r} is run again after {delay} ({reason})",
    _events.StreamBroken: "session {session} is over ({reason}), the next in {delay}: {cause}",
    _events.StreamGaveUp: "gave up after {sessions} sessions ({reason}): {cause}",
    _events.ShutdownCancelled: "the body is cancelled; still running: {running}",
    _events.SharedStateLost: "the server of the shared state is away: {cause}",
    _events.SharedStateRestored: "the server of the shared state is back after {seconds}",
    _events.CertificateReloadFailed: "the new certificate can't be used, the one before stays: {cause}",
}
_warned: RunVar[Limiter] = RunVar("trioresil_warned")


def _warn(kind: type[Event], fields: dict[str, Any]) -> None:
    name = fields["policy"].name
    if _logger.isEnabledFor(logging.WARNING) and _may_warn(name):
        shown = {key: in_seconds(value) if isinstance(value, float) else value for key, value in fields.items()}
        text = _WARNINGS[kind].format(cause=_cause(fields), **shown)
        _logger.warning("%s: %s", one_line(name), one_line(text, 1_000))


def _may_warn(name: str) -> bool:
    """Count a warning, by the clock of the run. What is done by hand outside of one is told each time."""
    try:
        second = int(trio.current_time())
    except RuntimeError:
        return True
    try:
        limiter = _warned.get()
    except LookupError:
        limiter = Limiter(MAX_WARNINGS_PER_SECOND)
        _warned.set(limiter)
    return limiter.left_out(name, None, second) is not None


def _cause(fields: dict[str, Any]) -> str:
    error = fields.get("error")
    if error is None:
        if fields.get("reason") == "returned":
            return "it returned"
        if fields.get("elsewhere"):
            return "calls of other processes failed"
        return "by hand" if fields.get("by_hand") else "its result was a failure"
    return safe_repr(error)
