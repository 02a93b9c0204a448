"""Timeout: a cancel scope with a deadline, and an error that says whose deadline it was."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import attrs
import trio
from trio import CancelScope, current_time
from trio.lowlevel import enable_ki_protection

from .. import _instruments
from .._checks import seconds as check_seconds
from .._checks import text
from .._errors import TimedOutError
from .._events import TimedOut
from .._links import Link, check_cancelled, passage
from ..abc import Policy


@attrs.frozen(kw_only=True)
class TimeoutStatistics:
    """What a Timeout can tell."""

    name: str
    """Its name."""
    seconds: float
    """The time that it allows, in seconds."""


class Timeout(Policy):
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
        it was running, None for a block.

    Source: Trio's cancel scopes.
    """

    stateful = False

    def __init__(self, seconds: float, *, name: str = "timeout") -> None:
        self._seconds = check_seconds("seconds", seconds, zero=False)
        self.name = text("name", name)
        self._open: dict[trio.lowlevel.Task, list[CancelScope]] = {}

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
                    passed = passage(exc) if not isinstance(exc, Exception) else None
                    raise
            # only if the scope's own deadline ended it, and nothing else came out
            assert passed is not None
            raise self._timed_out(passed.started, passed.notes)

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
    ) -> bool:
        task = trio.lowlevel.current_task()
        scopes = self._open.get(task)
        if not scopes:
            raise RuntimeError(f"{self.name}: a Timeout block must be left in the task that entered it")
        scope = scopes.pop()
        if not scopes:
            del self._open[task]
        passed = passage(error) if error is not None and not isinstance(error, Exception) else None
        swallowed = scope.__exit__(kind, error, traceback)
        if not swallowed:
            return False
        assert passed is not None
        # A block's body is user code: that a queue inside of it never let a call in is not the whole truth about the block.
        raise self._timed_out(passed.started or None, passed.notes) from None

    def _timed_out(self, started: bool | None, notes: list[str]) -> TimedOutError:
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
