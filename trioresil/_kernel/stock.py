"""Stock: the connections that a pool has, in which state each is, which one is taken next, and which one has to go.

The law of this file:

1. A connection is in one of four states: connecting, leased, idle, closing. Every method moves one of them, or none.
2. The newest idle one is taken first, so that what isn't needed falls idle and can go.
3. Whether a connection is too old is asked of it alone (`is_expired`), by whoever takes it and by whoever clears up: two
   predicates that differ by a rounding made a clearing task spin.
4. Of what is unused for too long the longest unused goes first, and never more than leaves `min_idle`.
5. Each `keep` returns the earliest instant at which it can have made anything due, so one timer for the least of them will do.

Rejected: a heap of instants. It would cost each use, and a pool is cleared up once in a minute.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Generic, Literal, TypeAlias, TypeVar

C = TypeVar("C")
Due: TypeAlias = Literal["idle", "expired"]


class Kept(Generic[C]):
    """A connection, and what its pool knows of it. Instants are absolute."""

    __slots__ = ("connection", "expires_at", "idle_since", "is_dirty", "opened_at")

    def __init__(self, connection: C, opened_at: float, lifetime: float) -> None:
        self.connection = connection
        self.opened_at = opened_at
        self.expires_at = opened_at + lifetime
        self.idle_since = opened_at
        self.is_dirty = False  # its last use failed, and it has not been reset since

    def is_expired(self, now: float) -> bool:
        return self.expires_at <= now


class Stock(Generic[C]):
    """The connections of one pool.

    Args:
      max_size (int or math.inf): how many there may be.
      min_idle (int): how many idle ones are wanted, and are left however long they are unused.
      max_idle_time (float, seconds): how long the others may be unused.
    """

    __slots__ = ("_idle", "_max_idle_time", "_max_size", "_min_idle", "closing", "connecting", "leased", "opened")

    def __init__(self, max_size: float, min_idle: int, max_idle_time: float) -> None:
        self._max_size = max_size
        self._min_idle = min_idle
        self._max_idle_time = max_idle_time
        self._idle: deque[Kept[C]] = deque()  # longest idle first
        self.connecting = self.leased = self.closing = self.opened = 0

    @property
    def idle(self) -> int:
        return len(self._idle)

    def lacks_idle(self) -> bool:
        """Tell whether another idle connection is wanted and there is room for it."""
        idle = len(self._idle)
        return idle < self._min_idle and self.connecting + self.leased + idle + self.closing < self._max_size

    def begin_connecting(self) -> None:
        self.connecting += 1

    def fail_connecting(self) -> None:
        self.connecting -= 1

    def lease_new(self, connection: C, now: float, lifetime: float) -> Kept[C]:
        """Note that a connection was made, for whoever made it."""
        self.connecting -= 1
        self.leased += 1
        self.opened += 1
        return Kept(connection, now, lifetime)

    def newest(self) -> Kept[C] | None:
        """Return the connection that `lease` would take."""
        return self._idle[-1] if self._idle else None

    def lease(self) -> Kept[C] | None:
        """Take the newest idle connection, if there is one."""
        if not self._idle:
            return None
        self.leased += 1
        return self._idle.pop()

    def keep(self, kept: Kept[C], now: float) -> float:
        """Make a leased connection idle; return the earliest instant at which something can be due because of that."""
        self.leased -= 1
        kept.idle_since = now
        self._idle.append(kept)
        return min(kept.expires_at, self._too_long_at())

    def expire(self, now: float) -> None:
        """Make every idle connection too old."""
        for kept in self._idle:
            kept.expires_at = min(kept.expires_at, now)

    def begin_closing(self) -> None:
        """Note that a leased connection is being closed."""
        self.leased -= 1
        self.closing += 1

    def end_closing(self) -> None:
        self.closing -= 1

    def next_due(self) -> float:
        """Return the instant at which the next one has to go; math.inf if none will have to."""
        return min([self._too_long_at(), *(kept.expires_at for kept in self._idle)])

    def lease_due(self, now: float) -> tuple[Kept[C], Due] | None:
        """Take an idle connection that has to go, if any has to, and say why."""
        due: tuple[Kept[C], Due] | None = next(((each, "expired") for each in self._idle if each.is_expired(now)), None)
        if due is None and self._too_long_at() <= now:
            due = self._idle[0], "idle"
        if due is not None:
            self._idle.remove(due[0])
            self.leased += 1
        return due

    def _too_long_at(self) -> float:
        return self._idle[0].idle_since + self._max_idle_time if len(self._idle) > self._min_idle else math.inf
