"""A token bucket whose state is one instant.

The law:

- `zero` is the instant at which the level was 0: the level at `now` is (now - zero) * rate, at most `capacity`. A
  bucket starts full. Nothing refills it and no level is stored, so nothing is added up and nothing drifts.
- n tokens are ready at max(zero, now - capacity/rate) + n/rate. They are granted iff that is <= now, and then it is the
  new `zero`. Times are compared with times: nobody asks "are there enough tokens?", whose answer after a sleep of just
  the right length could be "less one part in 10**16", for ever.
- Hence in every window the grants are <= capacity + rate * window.
- While somebody queues, the bucket may be over-full by CREDIT seconds: what the head of the queue is late by, because
  timers wake up late, is not lost to those behind. The bound is then capacity + rate * (window + CREDIT). Without any
  credit a fast bucket loses a good part of its rate; without the bound a stalled program lets a whole backlog go at
  once.
- A pause empties the bucket: it is at 0 when the pause ends, and nothing is granted before. Levels are those at the end
  of the pause while one is running; so giving tokens back or changing the rate never shortens it.
- A changed rate keeps the level, in tokens. An infinite rate means no limit: the bucket is full whenever it isn't
  paused.

Rejected: a refill task (it wakes up when there is nothing to do), a stored level (it drifts), and reserving ahead of
the grant (who leaves the queue then has to undo it in the right order).

Source: the generic cell rate algorithm, as in Go's x/time/rate and in Guava, without their reservations.
"""

from __future__ import annotations

import math
from typing import Final

from .._checks import number
from .instants import remaining

CREDIT: Final = 0.01  # seconds; ten times what a Linux timer is usually late by


class Bucket:
    """The level of a token bucket, and when it will be high enough."""

    __slots__ = ("_fill_time", "capacity", "held_until", "rate", "zero")

    def __init__(self, rate: float, capacity: float) -> None:
        self.capacity = number("capacity", capacity, above=0, finite=True)
        self.rate, self._fill_time = self._checked(rate)
        self.zero = -math.inf
        self.held_until = -math.inf

    def ready_at(self, tokens: float, now: float, queued: bool) -> float:
        """Return the instant at which `tokens` could be taken if nobody else took any; it is <= now if they can be now.

        More than `capacity` may be asked for: when the tokens of everybody in a queue will have been granted.
        """
        return max(self.held_until, self._line(tokens, now, queued))

    def take(self, tokens: float, now: float, queued: bool) -> None:
        """Grant tokens. The caller has found `ready_at(tokens, now, queued) <= now`."""
        self.zero = self._line(tokens, now, queued)

    def adjust(self, tokens: float, now: float, queued: bool = False) -> None:
        """Charge so many tokens more, even below 0; or, if negative, give them back, up to capacity."""
        full = self._full_since(self._settled(now), queued)
        self.zero = max(max(self.zero, full) + tokens / self.rate, full)

    def pause(self, seconds: float, now: float) -> None:
        """Grant nothing for so many seconds, and then n tokens after n/rate more. Never shortens an earlier pause."""
        until = now + seconds
        self.held_until = max(self.held_until, until)
        self.zero = max(self.zero, until)

    def set_rate(self, rate: float, now: float) -> None:
        """Fill at another rate from now on (after the pause, if one is running); the level stays."""
        rate, fill_time = self._checked(rate)
        level = self.level(now)
        self.zero = self._settled(now) - (0.0 if rate == math.inf else level / rate)
        self.rate, self._fill_time = rate, fill_time

    def level(self, now: float) -> float:
        """Return the tokens in the bucket: <= capacity, < 0 after a charge; in a pause, those at its end."""
        if self.rate == math.inf:
            return 0.0 if self.held_until > now else self.capacity
        settled = self._settled(now)
        return min(self.capacity, (settled - self.zero) * self.rate) if settled != self.zero else 0.0

    def paused_for(self, now: float) -> float:
        """Return the seconds until the pause ends, 0.0 if none is running."""
        return remaining(now, self.held_until)

    def shift(self, seconds: float) -> None:
        """Move every instant: the clock now reads `seconds` more than it would have."""
        self.zero += seconds
        self.held_until += seconds

    def _checked(self, rate: float) -> tuple[float, float]:
        rate = number("rate", rate, above=0)
        fill_time = self.capacity / rate
        if fill_time == math.inf:
            raise ValueError(
                f"rate must be a number > 0 that fills the capacity of {self.capacity:g} in finite time, not {rate!r}"
            )
        return rate, fill_time

    def _settled(self, now: float) -> float:
        return max(now, self.held_until)

    def _full_since(self, now: float, queued: bool) -> float:
        """Return the instant such that a bucket whose level was 0 then, or before, is full now."""
        return now - self._fill_time - CREDIT if queued else now - self._fill_time

    def _line(self, tokens: float, now: float, queued: bool) -> float:
        full = self._full_since(now, queued)
        if self.zero > full:
            return self.zero + tokens / self.rate
        line = full + tokens / self.rate
        # A full bucket has its capacity ready now. Rounding may say one unit in the last place later.
        return now if line > now and tokens <= self.capacity else line
