"""Restarts: how many are allowed, how long to wait before one, and whom it takes along.

The law of this file:

1. A failure at `now` is the (n+1)-th if n were counted in the half-open window (now - within, now]: one that is exactly
   `within` old is forgotten. With n = max_restarts it is one too many, and is not counted itself.
2. No more than max_restarts instants are kept, and none if there is no limit.
3. A back-off starts afresh after a life of `stable_after` or more, else it goes on where it was.
4. Whom a restart takes along is a suffix of the declared order, or all of it, or the one alone. They are stopped in the
   reverse of the order in which they are started.

Rejected: a token bucket for the limit, which lets a child that fails at a steady pace go on for ever at the same average as
one that fails three times in a minute; and a count that is set to 0 by a quiet time, which a child that fails at
intervals just below it never reaches.

Source: the restart intensity and strategies of Erlang's supervisors.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias, TypeVar

from .backoff import Backoff, Chance, endless

T = TypeVar("T")
Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]
Restart: TypeAlias = Literal["always", "on_failure", "never"]


class Intensity:
    """How many restarts there were lately.

    Args:
      max_restarts (int >= 0, or math.inf): how many are allowed in the window.
      within (float, seconds, > 0): the window.
    """

    __slots__ = ("_instants", "_max_restarts", "_within")

    def __init__(self, max_restarts: float, within: float) -> None:
        self._max_restarts = max_restarts
        self._within = within
        self._instants: deque[float] = deque()

    def allows(self, now: float) -> bool:
        """Count a restart that is asked for now, if it is allowed, and tell whether it is."""
        if self._max_restarts == math.inf:
            return True
        instants = self._instants
        while instants and instants[0] <= now - self._within:
            instants.popleft()
        if len(instants) >= self._max_restarts:
            return False
        instants.append(now)
        return True


class Pauses:
    """The delays before something is run again.

    Args:
      backoff (Backoff): the schedule.
      rng (Chance): what it draws from.
      stable_after (float, seconds, >= 0): a life that long sets it back to its first delay.
    """

    __slots__ = ("_backoff", "_delays", "_rng", "_stable_after")

    def __init__(self, backoff: Backoff, rng: Chance, stable_after: float) -> None:
        self._backoff = backoff
        self._rng = rng
        self._stable_after = stable_after
        self._delays: Iterator[float] | None = None

    def next(self, lived: float) -> float:
        """Return the delay after a life of so many seconds."""
        if self._delays is None or lived >= self._stable_after:
            self._delays = endless("backoff", self._backoff.delays(self._rng))
        return next(self._delays)


def taken_along(strategy: Strategy, order: Sequence[T], failed: T) -> Sequence[T]:
    """Return those that are restarted with one that failed, in the declared order; `failed` is in `order`."""
    if strategy == "one_for_one":
        return [failed]
    return order if strategy == "one_for_all" else order[order.index(failed) :]
