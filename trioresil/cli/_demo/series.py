"""A course as series over time, for charts and their tables. Pure: a function of the Course.

A slice of the timeline holds too few requests for a share or a percentile to mean anything, so slices are put together until a
stretch has about PER_STRETCH requests, as long as that leaves enough stretches to see a course in them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import attrs

from .course import Course
from .timeline import Slice, Tally, percentile, together
from .weather import Kind

PER_STRETCH: Final = 20
MIN_STRETCHES: Final = 20
MAX_STRETCHES: Final = 60
MEDIAN: Final = 0.5
TAIL: Final = 0.95  # of 20 requests the highest percentile that isn't just the slowest


@attrs.frozen
class SideFigures:
    """One side in one stretch of time. None: there was nothing to take it of."""

    answered: float | None
    """Share of the requests with an outcome that got an answer, fresh or cached."""
    fresh: float | None
    """Share of them that got a fresh answer."""
    median: float | None
    """Seconds that half of them waited at most."""
    tail: float | None
    """Seconds that 95 % of them waited at most."""
    load: float | None
    """Attempts that arrived at the service, a second."""


@attrs.frozen
class Stretch:
    """One stretch of time, both sides of it."""

    begins: float
    ends: float
    weather: Kind
    """What the service was like when it began."""
    bare: SideFigures
    resilient: SideFigures

    @property
    def middle(self) -> float:
        """Where it is drawn."""
        return (self.begins + self.ends) / 2


@attrs.frozen
class Spell:
    """A time in which the circuit kept one state."""

    begins: float
    ends: float
    state: str


def seconds_shown(course: Course) -> float:
    """Return how much time there is to show: all in which requests were to be sent, or until it was stopped."""
    return min(course.elapsed, course.options.seconds)


def stretches(course: Course) -> list[Stretch]:
    """Return the stretches that have begun, in order."""
    end = seconds_shown(course)
    slices = course.timeline.slices
    wanted = course.options.seconds * course.options.rate / PER_STRETCH
    size = math.ceil(len(slices) / min(max(wanted, MIN_STRETCHES), MAX_STRETCHES))
    groups = [slices[first : first + size] for first in range(0, len(slices), size)]
    begins = [*(group[0].at for group in groups), course.options.seconds]
    return [
        _stretch(group, first, min(last, end), whole=last <= end + 1e-9)
        for group, (first, last) in zip(groups, pairwise(begins), strict=True)
        if first < end
    ]


def spells(course: Course) -> list[Spell]:
    """Return the circuit's states from the first second to the last; none if it never ran."""
    end = seconds_shown(course)
    states = [each for each in course.events.circuit_states if each[0] < end]
    ends = [*(at for at, _ in states[1:]), end]
    return [Spell(at, until, state) for (at, state), until in zip(states, ends, strict=True)]


def _stretch(group: Sequence[Slice], begins: float, ends: float, *, whole: bool) -> Stretch:
    # A rate of a stretch that was cut short is noise: a request or two, divided by almost nothing.
    seconds = ends - begins if whole else None
    return Stretch(
        begins,
        ends,
        group[0].weather,
        _figures([each.bare for each in group], seconds),
        _figures([each.resilient for each in group], seconds),
    )


def _figures(tallies: Iterable[Tally], seconds: float | None) -> SideFigures:
    tallies = list(tallies)
    total = together(tallies)
    waits = sorted(wait for tally in tallies for wait in tally.waits)
    finished = total.finished
    return SideFigures(
        answered=total.answered / finished if finished else None,
        fresh=total.fresh / finished if finished else None,
        median=percentile(waits, MEDIAN),
        tail=percentile(waits, TAIL),
        load=None if seconds is None else total.sent / seconds,
    )
