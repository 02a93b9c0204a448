"""One clock, read once per decision, and a memory of which clock it was.

Trio's clock starts anywhere in each run, while policies live at module level and go through many runs. So a policy's instants
are meaningful only together with the clock they were read from. RunClock remembers that clock and the instant of the last
reading; when it meets another clock it tells the difference, and its owner shifts its instants: levels, remaining times and
ages are then as at the last use. Whatever happened between two runs took no time.
"""

from __future__ import annotations

from collections.abc import Callable

import trio
from trio.lowlevel import current_clock

from ._errors import in_another_run, outside_trio


class RunClock:
    """Reads Trio's clock for one object with state.

    Args:
      shift: called with a number of seconds to add to each instant that the owner keeps.
      occupied: tells whether tasks are inside the owner, which must then not meet another clock.
      owner: the owner's name, for the error.
    """

    __slots__ = ("_clock", "_now", "_occupied", "_owner", "_shift")

    def __init__(self, shift: Callable[[float], object], *, occupied: Callable[[], bool], owner: str) -> None:
        self._shift = shift
        self._occupied = occupied
        self._owner = owner
        self._clock: trio.abc.Clock | None = None
        self._now = 0.0

    def read(self) -> float:
        """Return the current time, after the owner's instants were moved onto this run's clock."""
        try:
            clock = current_clock()
        except RuntimeError as exc:
            raise outside_trio(exc) from None
        now = clock.current_time()
        if clock is not self._clock:
            self._meet(clock, now)
        self._now = now
        return now

    def _meet(self, clock: trio.abc.Clock, now: float) -> None:
        if self._clock is not None and self._occupied():
            raise in_another_run(self._owner)
        self._shift(now - self._now)
        self._clock = clock

    def peek(self) -> float:
        """Return the current time in a run, and outside of one, or while another run's tasks are inside, the last reading."""
        try:
            clock = current_clock()
        except RuntimeError:
            return self._now
        if clock is not self._clock:
            return self._now if self._clock is not None and self._occupied() else self.read()
        return clock.current_time()

    def read_or_last(self) -> float:
        """Like read, but outside of a run return the instant of the last reading."""
        try:
            current_clock()
        except RuntimeError:
            return self._now
        return self.read()
