"""What happened lately: counts over the last calls, or over the last seconds.

The law:

- `calls` and `failed` are running totals: recording costs the same whatever the window's size.
- A CountWindow holds exactly the last `size` calls.
- A TimeWindow is a ring of `slices`. A call is counted in the slice that is current when it is recorded, and forgotten
  with the whole slice. So each call younger than (slices - 1)/slices of the window is counted, and none as old as the
  window.
- After an idle time *every* slice that passed is emptied, not only the next one: otherwise failures from before a quiet
  night are still there in the morning (a bug that other libraries had). Nothing costs more than one turn of the ring.
- A time that goes back is taken as the current slice. It neither rewinds the ring nor loses a count.
- The first slice begins with the first call, not on a grid of round times: a single call is remembered for the full
  window.

Rejected: a queue of time stamps (exact, but its memory grows with the traffic just when a service is in trouble), and
an exponentially weighted average (no answer to "of how many calls?", which a minimum number of calls needs).

Source: the sliding windows of resilience4j and Polly.
"""

from __future__ import annotations

import math

from .._checks import seconds as check_seconds
from .._checks import whole


class CountWindow:
    """The last `size` calls: how many there were, and how many of them failed."""

    __slots__ = ("_next", "_ring", "calls", "failed", "size")

    def __init__(self, size: int) -> None:
        self.size = whole("size", size)
        self._ring = bytearray(self.size)
        self._next = 0
        self.calls = 0
        self.failed = 0

    def record(self, failed: bool) -> None:
        """Count one call; the oldest one is forgotten if the window is full."""
        place = self._next
        if self.calls == self.size:
            self.failed -= self._ring[place]
        else:
            self.calls += 1
        self._ring[place] = failed
        if failed:
            self.failed += 1
        self._next = (place + 1) % self.size

    def clear(self) -> None:
        """Forget every call."""
        # The ring's old contents are never read again: a place counts only once the window has filled up to it anew.
        self._next = self.calls = self.failed = 0


class TimeWindow:
    """The calls of the last `window` seconds, forgotten by the slice; `calls` and `failed` are as of the last now."""

    __slots__ = (
        "_base_calls",
        "_base_failed",
        "_calls",
        "_ends",
        "_failed",
        "_place",
        "_slices",
        "_width",
        "calls",
        "failed",
    )

    def __init__(self, window: float, slices: int = 10) -> None:
        self._slices = whole("slices", slices)
        self._width = check_seconds("window", window, zero=False, finite=True) / self._slices
        self.clear()

    def clear(self) -> None:
        """Forget every call; the next one begins a new first slice."""
        self._calls = [0] * self._slices
        self._failed = [0] * self._slices
        self._place = 0
        self._ends = -math.inf
        self.calls = self.failed = 0
        # The current slice's own counts are the totals less these; so recording touches nothing but the totals.
        self._base_calls = self._base_failed = 0

    def record(self, now: float, failed: bool) -> None:
        """Count one call that ended now."""
        if now >= self._ends:
            self._roll(now)
        self.calls += 1
        if failed:
            self.failed += 1

    def advance(self, now: float) -> None:
        """Forget what has become too old by now."""
        if now >= self._ends:
            self._roll(now)

    def shift(self, seconds: float) -> None:
        """Move every instant: the clock now reads `seconds` more than it would have."""
        self._ends += seconds

    def _roll(self, now: float) -> None:
        late = now - self._ends
        if late >= self._width * (self._slices - 1):
            self.clear()
            self._ends = now + self._width
            return
        passed = int(late / self._width) + 1
        self._ends += passed * self._width
        self._calls[self._place] = self.calls - self._base_calls
        self._failed[self._place] = self.failed - self._base_failed
        for _ in range(passed):
            self._place = (self._place + 1) % self._slices
            self.calls -= self._calls[self._place]
            self.failed -= self._failed[self._place]
            self._calls[self._place] = self._failed[self._place] = 0
        self._base_calls = self.calls
        self._base_failed = self.failed
