"""What is kept of a course: totals of each side, and slices of time. Views and reports read it; nothing here draws or waits."""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, Literal

import attrs

from .weather import Kind, Weather

Outcome = Literal["fresh", "cached", "failed"]

MAX_SLICES: Final = 120
MIN_SLICE_SECONDS: Final = 0.1


@attrs.define
class Tally:
    """Requests that began in some stretch of time, and what has become of them."""

    begun: int = 0
    fresh: int = 0
    """Answered by the service."""
    cached: int = 0
    """Answered by the fallback, with an earlier answer."""
    failed: int = 0
    """Ended with an error."""
    sent: int = 0
    """Attempts that arrived at the service meanwhile, by its own count."""
    waits: list[float] = attrs.field(factory=list, eq=False, repr=False)
    """How long each of those with an outcome took, in the order of their ends. A sum of tallies has none."""

    @property
    def answered(self) -> int:
        """Fresh and cached together."""
        return self.fresh + self.cached

    @property
    def pending(self) -> int:
        """Under way; in the end: cut off."""
        return self.begun - self.fresh - self.cached - self.failed

    @property
    def finished(self) -> int:
        """Those with an outcome."""
        return self.begun - self.pending

    def add(self, outcome: Outcome) -> None:
        """Count one end."""
        setattr(self, outcome, getattr(self, outcome) + 1)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            begun=self.begun + other.begun,
            fresh=self.fresh + other.fresh,
            cached=self.cached + other.cached,
            failed=self.failed + other.failed,
            sent=self.sent + other.sent,
        )


@attrs.define
class Slice:
    """A slice of time, both sides of it."""

    at: float
    """Its begin, in seconds since the start."""
    weather: Kind
    bare: Tally = attrs.Factory(Tally)
    resilient: Tally = attrs.Factory(Tally)
    circuit: str | None = None
    """The state furthest from closed that the circuit was seen in; None if nobody looked."""

    def see_circuit(self, state: str) -> None:
        """Note the state of the circuit now."""
        if self.circuit is None or _SEVERITY[state] > _SEVERITY[self.circuit]:
            self.circuit = state


_SEVERITY: Final = {"closed": 0, "half-open": 1, "open": 2, "isolated": 3}


class Side:
    """The totals of one side."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.total = Tally()
        self.errors: Counter[str] = Counter()
        self.waits: list[float] = []
        """How long each finished request took, whatever its end; sorted."""
        self.oldest = 0.0
        """Age of the oldest cached answer that was given, in seconds."""

    def finish(self, seconds: float) -> None:
        """Note how long a request took."""
        insort(self.waits, seconds)

    def answered_ratio(self) -> float | None:
        """Return the share of the finished requests that got an answer, fresh or cached; None before the first."""
        return self.total.answered / self.total.finished if self.total.finished else None


def percentile(sorted_values: Sequence[float], ratio: float) -> float | None:
    """Return the smallest value that at least this share of the values doesn't exceed (nearest rank); None of none."""
    if not sorted_values:
        return None
    rank = math.ceil(round(ratio * len(sorted_values), 9))
    return sorted_values[max(rank, 1) - 1]


class Timeline:
    """A course in slices of equal length, the first at 0."""

    def __init__(self, weather: Weather) -> None:
        self.weather = weather
        self.seconds = weather.seconds
        self.slice_seconds = max(weather.seconds / MAX_SLICES, MIN_SLICE_SECONDS)
        count = math.ceil(round(weather.seconds / self.slice_seconds, 9))
        starts = [index * self.slice_seconds for index in range(count)]
        self.slices = [Slice(at, weather.phase(at).kind) for at in starts]

    def slice_at(self, at: float) -> Slice:
        """Return the slice that an instant lies in; the last one for what comes after it."""
        return self.slices[min(int(max(at, 0.0) / self.slice_seconds), len(self.slices) - 1)]

    def columns(self, count: int) -> list[list[Slice]]:
        """Return the slices in so many groups of about the same length; some are shared if there are fewer slices."""
        total = len(self.slices)
        edges = [index * total / count for index in range(count + 1)]
        return [self.slices[int(left) : max(int(left) + 1, int(right))] for left, right in pairwise(edges)]


def together(tallies: Iterable[Tally]) -> Tally:
    """Return the sum."""
    return sum(tallies, Tally())
