"""The figures of the report: for each its charts, a sentence that says what is seen, and a table with every number. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import attrs

from .chart import Axis, line, rate_axis, share_axis, steps, wait_axis
from .chart import Tick as Tick
from .course import Course
from .report import duration, percent, times
from .series import SideFigures, Spell, Stretch, seconds_shown, spells, stretches

MAX_SPELLS: Final = 200
"""So many changes of the circuit the table has; it says how many it leaves out."""

STATE_HEIGHTS: Final = {"open": 15.0, "half-open": 50.0, "closed": 85.0}
STATE_WORDS: Final = {"open": "open", "half-open": "half-open (a probe is under way)", "closed": "closed"}

Value = Callable[[SideFigures], float | None]


@attrs.frozen
class Curve:
    """One line of a chart."""

    kind: str
    """How it is drawn, by the style sheet: bare, resilient, fresh, offered."""
    path: str


@attrs.frozen
class Panel:
    """One chart."""

    label: str
    ticks: tuple[Tick, ...]
    curves: tuple[Curve, ...]
    table_columns: tuple[int, ...]
    """Which columns of the figure's table have the values of its legend, in the legend's order."""


@attrs.frozen
class Figure:
    """What is seen together."""

    key: str
    title: str
    about: str
    """What is drawn."""
    told: str
    """What is seen: the text for who can't see it, and for who can."""
    legend: tuple[tuple[str, str], ...]
    """(kind, name) of each curve."""
    panels: tuple[Panel, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[float, tuple[str, ...]], ...]
    """(seconds at which it begins, its cells)"""
    left_out: int = 0
    """How many rows are not there."""


def figures(course: Course) -> list[Figure]:
    """Return the figures of a course in which something was sent."""
    seen = stretches(course)
    end = seconds_shown(course)
    return [
        _answered(course, seen, end),
        _load(course, seen, end),
        _waits(course, seen, end),
        _circuit(course, spells(course), end),
    ]


def _answered(course: Course, seen: list[Stretch], end: float) -> Figure:
    axis = share_axis()
    curves = (
        _curve("fresh", seen, end, axis, lambda side: side.fresh, "resilient"),
        _curve("bare", seen, end, axis, lambda side: side.answered),
        _curve("resilient", seen, end, axis, lambda side: side.answered),
    )
    bare, resilient = _names(course)
    return Figure(
        "answered",
        "Callers that got an answer",
        f"Share of the requests begun in each {_length(seen)}. Of trioresil’s answers, some come from the cache; the dotted "
        "line leaves those out.",
        _worst(seen, lambda side: side.answered, min, _share, "answered", (bare, resilient)),
        (("bare", bare), ("resilient", resilient), ("fresh", f"{resilient}, fresh only")),
        (Panel("Answered", axis.ticks, curves, (1, 2, 3)),),
        ("From", bare, resilient, f"{resilient}, fresh only"),
        _rows(seen, lambda e: (_share(e.bare.answered), _share(e.resilient.answered), _share(e.resilient.fresh))),
    )


def _waits(course: Course, seen: list[Stretch], end: float) -> Figure:
    axis = wait_axis(value for e in seen for side in (e.bare, e.resilient) for value in (side.median, side.tail))
    median, tail = (
        tuple(_curve(kind, seen, end, axis, value) for kind in ("bare", "resilient")) for value in (_median, _tail)
    )
    names = _names(course)
    return Figure(
        "waits",
        "How long callers waited",
        f"For an answer or an error, by when the request began, in stretches of {_length(seen)}. The scale is logarithmic.",
        _worst(seen, _tail, max, duration, "let one caller in twenty wait", names, suffix=" or longer"),
        (("bare", names[0]), ("resilient", names[1])),
        (
            Panel("Half of them waited at most (median)", axis.ticks, median, (1, 2)),
            Panel("95 % of them waited at most (p95)", axis.ticks, tail, (3, 4)),
        ),
        ("From", *(f"{name}, {what}" for what in ("median", "p95") for name in names)),
        _rows(seen, lambda e: tuple(map(duration, (e.bare.median, e.resilient.median, e.bare.tail, e.resilient.tail)))),
    )


def _load(course: Course, seen: list[Stretch], end: float) -> Figure:
    rate = course.options.rate
    axis = rate_axis([rate, *(side.load for e in seen for side in (e.bare, e.resilient))])
    curves = (
        Curve("offered", line([(0.0, rate), (end, rate)], end, axis)),
        _curve("bare", seen, end, axis, lambda side: side.load),
        _curve("resilient", seen, end, axis, lambda side: side.load),
    )
    names = _names(course)
    told = _worst(seen, lambda side: side.load, max, _rate, "sent the service", names, at="most")
    return Figure(
        "load",
        "Load on the service",
        f"Attempts that arrived at the service, by its own count. Callers ask {rate:g} times a second.",
        f"{told} {_load_in_outage(seen, names)}".strip(),
        (("bare", names[0]), ("resilient", names[1]), ("offered", "callers")),
        (Panel("Attempts a second", axis.ticks, curves, (1, 2, 3)),),
        ("From", *names, "callers"),
        _rows(seen, lambda e: (_rate(e.bare.load), _rate(e.resilient.load), _rate(rate))),
    )


def _circuit(course: Course, seen: list[Spell], end: float) -> Figure:
    path = steps([(each.begins, STATE_HEIGHTS[each.state]) for each in seen], end)
    ticks = tuple(Tick(height, state) for state, height in STATE_HEIGHTS.items())
    open_for = sum(each.ends - each.begins for each in seen if each.state == "open")
    opened = times(course.events.circuit_opened)
    told = f"It opened {opened} and was open for {open_for:.1f} of {end:.1f} s." if open_for else "It never opened."
    return Figure(
        "circuit",
        "State of the circuit",
        "While trioresil’s circuit breaker is open, the service is left alone, and callers get an earlier answer at once. "
        "The bare client has none.",
        told,
        (("resilient", course.resilient.name),),
        (Panel("State", ticks, (Curve("resilient", path),), (1,)),),
        ("From", "State", "For"),
        tuple(
            (each.begins, (STATE_WORDS[each.state], duration(each.ends - each.begins))) for each in seen[:MAX_SPELLS]
        ),
        left_out=max(0, len(seen) - MAX_SPELLS),
    )


# --- parts ---------------------------------------------------------------------------------------------------------------


def _median(side: SideFigures) -> float | None:
    return side.median


def _tail(side: SideFigures) -> float | None:
    return side.tail


def _curve(kind: str, seen: Iterable[Stretch], end: float, axis: Axis, value: Value, side: str = "") -> Curve:
    points = [(each.middle, value(getattr(each, side or kind))) for each in seen]
    return Curve(kind, line(points, end, axis))


def _names(course: Course) -> tuple[str, str]:
    return course.bare.name, course.resilient.name


def _rows(
    seen: Sequence[Stretch], cells: Callable[[Stretch], tuple[str, ...]]
) -> tuple[tuple[float, tuple[str, ...]], ...]:
    return tuple((each.begins, cells(each)) for each in seen)


def _length(seen: Sequence[Stretch]) -> str:
    return duration(seen[0].ends - seen[0].begins)


def _worst(
    seen: Sequence[Stretch],
    value: Value,
    choose: Callable[..., tuple[float, float]],
    text: Callable[[float | None], str],
    verb: str,
    names: tuple[str, str],
    *,
    suffix: str = "",
    at: str = "worst",
) -> str:
    """Return a sentence about each side's worst stretch: a value, and when it was."""
    parts = []
    for name, kind in zip(names, ("bare", "resilient"), strict=True):
        known = [(found, each.begins) for each in seen if (found := value(getattr(each, kind))) is not None]
        if known:
            worst, begins = choose(known, key=lambda pair: pair[0])
            always = all(each == worst for each, _ in known)
            when = "throughout" if always else f"(from {begins:.1f} s)"
            parts.append(f"{name} {verb} {text(worst)}{suffix} {when}")
    return f"At {at}, {', and '.join(parts)}." if parts else "It was stopped too early to tell."


def _load_in_outage(seen: Iterable[Stretch], names: tuple[str, str]) -> str:
    """Return a sentence about the mean load while the service answered nothing; empty if there was no such time."""
    down = [each for each in seen if each.weather != "fair" and each.bare.load is not None]
    if not down:
        return ""
    means = (
        sum(load for each in down if (load := getattr(each, kind).load) is not None) / len(down)
        for kind in ("bare", "resilient")
    )
    told = " and ".join(f"{_rate(mean)} from {name}" for name, mean in zip(names, means, strict=True))
    return f"While it answered nothing, it still got {told}, on average."


def _share(value: float | None) -> str:
    return "-" if value is None else percent(value, 1.0)


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}/s"
