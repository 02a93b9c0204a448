"""Timeout: a cancel scope with a deadline, and an error that says whose deadline it was."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, Literal

import attrs
import trio
from trio import CancelScope, current_time
from trio.lowlevel import enable_ki_protection

from .. import _instruments
from .._checks import seconds as check_seconds
from .._checks import text
from .._errors import TimedOutError
from .._events import TimedOut
from .._immutable import Immutable
from .._links import Link, check_cancelled, passage
from ..abc import Policy

KEPT_NOTES: Final = 10


@attrs.frozen(kw_only=True)
class TimeoutStatistics:
    """What a Timeout can tell."""

    name: str
    """Its name."""
    seconds: float
    """The time that it allows, in seconds."""


class Timeout(Immutable, Policy):
    """Bounds how long a call or a block may take.

    If the time is up, what runs inside is cancelled and TimedOutError is raised, but only if *this* deadline was what ended
    it: a time-out further out, or the user's own `trio.fail_after` further in, is never claimed. When nested Timeouts are due
    together the outer one is named. Work that finishes late without noticing has finished: its value is returned.

    It bounds the call, not what the call returns: a response whose body is read later is not covered. Under a Retry it bounds
    all attempts; inside of one, each attempt.

    Synopsis::

        response = await trioresil.Timeout(5).call(client.get, url)

        async with trioresil.Timeout(5, name="handshake"):
            ...

    Sharing: holds nothing for a call; any number of tasks may use one object, and a task may nest it.

    Args:
      seconds (float, seconds, > 0): the time allowed, from entering. math.inf: no limit.
      name (str): its name in errors, events and statistics. Default: "timeout".

    Cancellation: entering checks for cancellation only; it is no schedule point. A cancellation from outside passes unchanged.

    Raises:
      TimedOutError: the time was up. Its `started` is False if the guarded function was still waiting to be let in, True if
        it was running, None if nobody can tell, as of a block in which no call is known to have started.

    Source: Trio's cancel scopes.
    """

    stateful = False
    _one_chain = True

    def __init__(self, seconds: float, *, name: str = "timeout") -> None:
        self._seconds = check_seconds("seconds", seconds, zero=False)
        self.name: str = text("name", name)
        self._open: dict[trio.lowlevel.Task, list[CancelScope]] = {}
        self._built = True

    @property
    def seconds(self) -> float:
        """The time allowed, in seconds."""
        return self._seconds

    def replace(self, **changes: Any) -> Timeout:
        """Return a copy with other arguments: `timeout.replace(seconds=2)`."""
        return Timeout(**{"seconds": self._seconds, "name": self.name, **changes})

    def link(self, inner: Link) -> Link:
        """Return one link of a chain; see trioresil.abc.Policy."""
        allowed = self._seconds

        async def link(args: Any, kwargs: Any) -> Any:
            if _instruments.installed:
                _instruments.announce(self)
            with CancelScope(deadline=current_time() + allowed):
                try:
                    return await inner(args, kwargs)
                except BaseException as exc:
                    passed = _passed(exc)
                    raise
            # only if the scope's own deadline ended it, and nothing else came out
            raise self._timed_out(*passed)

        return link

    @enable_ki_protection
    async def __aenter__(self) -> None:
        await check_cancelled()
        if _instruments.installed:
            _instruments.announce(self)
        scope = CancelScope(deadline=current_time() + self._seconds)
        scope.__enter__()
        self._open.setdefault(trio.lowlevel.current_task(), []).append(scope)

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:  # with plain bool, checkers would think that a block may swallow
        task = trio.lowlevel.current_task()
        scopes = self._open.get(task)
        if not scopes:
            raise RuntimeError(f"{self.name}: a Timeout block must be left in the task that entered it")
        scope = scopes.pop()
        if not scopes:
            del self._open[task]
        if not scope.__exit__(kind, error, traceback) or error is None:  # Trio's exit says True if there was no error
            return False
        started, notes = _passed(error)
        # A block's body is user code: that a queue inside of it never let a call in is not the whole truth about the block.
        timed_out = self._timed_out(started or None, notes)
        try:
            raise timed_out
        finally:
            timed_out.__context__ = None  # `raise` puts the cancellation there, with all its frames
            del timed_out

    def _timed_out(self, started: bool | None, notes: Iterable[str]) -> TimedOutError:
        error = TimedOutError(self.name, self._seconds, started=started)
        for note in notes:
            error.add_note(note)
        _instruments.emit(TimedOut, policy=self, seconds=self._seconds, started=started)
        return error

    def statistics(self) -> TimeoutStatistics:
        """Return a snapshot of its configuration."""
        return TimeoutStatistics(name=self.name, seconds=self._seconds)

    def __repr__(self) -> str:
        return f"<trioresil.Timeout {self.name!r} {self._seconds:g} s>"


def _passed(exc: BaseException) -> tuple[bool | None, list[str]]:
    """Return what the links that a cancellation passed knew: whether a call had started, and notes, innermost first.

    Of a group of cancellations, as a nursery makes it, what was known inside of the nursery comes first.
    """
    if isinstance(exc, Exception):
        return None, []  # no cancellation
    own = passage(exc)
    if not isinstance(exc, BaseExceptionGroup):
        return own.started, own.notes
    inside = [_passed(each) for each in exc.exceptions]
    started = own.started
    if started is None:
        known = {each for each, _ in inside}
        started = True if True in known else False if known == {False} else None
    unique = dict.fromkeys(note for _, notes in inside for note in notes)  # a hundred tasks may say the same
    return started, [*list(unique)[:KEPT_NOTES], *own.notes]
