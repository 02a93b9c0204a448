"""The figures of a course, as a document for JSON, and what they say, in a table and in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import attrs
from rich import box
from rich.table import Table

import trioresil

from .course import Course
from .service import FlakyService
from .timeline import Side, Tally, percentile


def document(course: Course) -> dict[str, Any]:
    """Return everything that was seen, of types that JSON has. Times are in seconds, ratios in [0, 1]; None: no such thing."""
    options = course.options
    return {
        "trioresil": version("trioresil"),
        "seconds": options.seconds,
        "seed": options.seed,
        "rate": options.rate,
        "elapsed": round(course.elapsed, 3),
        "interrupted": course.stopped,
        "overdue": course.overdue,
        "weather": [
            {"kind": each.kind, "begins": each.begins, "ends": min(each.ends, options.seconds)}
            for each in course.weather.phases()
        ],
        "bare": _side(course.bare, course.bare_service),
        "resilient": _side(course.resilient, course.resilient_service) | policies(course),
        "timeline": [
            {
                "at": round(each.at, 3),
                "weather": each.weather,
                "bare": _tally(each.bare),
                "resilient": _tally(each.resilient),
                "circuit": each.circuit,
            }
            for each in course.timeline.slices
            if each.at <= course.elapsed
        ],
    }


def _side(side: Side, service: FlakyService) -> dict[str, Any]:
    total = side.total
    return {
        "requests": total.begun,
        "answered": total.answered,
        "fresh": total.fresh,
        "cached": total.cached,
        "failed": total.failed,
        "cut_off": total.pending,
        "answered_ratio": ratio(total.answered, total.begun),
        "fresh_ratio": ratio(total.fresh, total.begun),
        "p50": percentile(side.waits, 0.5),
        "p99": percentile(side.waits, 0.99),
        "oldest_cached": side.oldest if total.cached else None,
        "sent": service.requests,
        "sent_in_outage": sent_in_outage(service),
        "answers_of_service": dict(service.by_action),
        "errors": dict(side.errors),
    }


def policies(course: Course) -> dict[str, Any]:
    """Return what the policies report."""
    count, log = course.events.of, course.events.circuit_log
    return {
        "circuit": course.client.breaker.state.value if course.client else None,
        "circuit_opened": course.events.circuit_opened,
        "circuit_log": [{"at": round(at, 3), "what": what} for at, what in log],
        "retries": count(trioresil.RetryScheduled),
        "gave_up": count(trioresil.RetryGaveUp),
        "rejected": count(trioresil.CallRejected),
        "timed_out": count(trioresil.TimedOut),
    }


def _tally(tally: Tally) -> dict[str, int]:
    return {
        "begun": tally.begun,
        "fresh": tally.fresh,
        "cached": tally.cached,
        "failed": tally.failed,
        "sent": tally.sent,
    }


def ratio(part: float, whole: float) -> float | None:
    """Return the share, None of nothing."""
    return part / whole if whole else None


def sent_in_outage(service: FlakyService) -> int:
    """Return how many attempts the service got while it could answer none."""
    return service.by_weather["outage"] + service.by_weather["restarting"]


def percent(part: float, whole: float) -> str:
    """Return a share for people."""
    share = ratio(part, whole)
    return "-" if share is None else f"{100 * share:.1f} %"


def duration(seconds: float | None) -> str:
    """Return a time for people, to three digits."""
    if seconds is None:
        return "-"
    return f"{1000 * seconds:.0f} ms" if seconds < 0.9995 else f"{seconds:.2f} s"


@attrs.frozen
class Row:
    """A row of the final table."""

    label: str
    values: Sequence[str]
    """Of the bare side, and of the resilient one."""
    part: bool = False
    """Whether it is a part of the row above."""
    style: str | None = None
    """Of rich."""


def summary_rows(course: Course) -> list[Row]:
    """Return the rows of the final table."""
    sides = [(course.bare, course.bare_service), (course.resilient, course.resilient_service)]
    totals = [side.total for side, _ in sides]

    def counted(name: str) -> list[str]:
        counts = [(getattr(each, name), each.begun) for each in totals]
        return [f"{value} {percent(value, total):>7}" for value, total in counts]

    def waited(share: float) -> list[str]:
        return [duration(percentile(side.waits, share)) for side, _ in sides]

    seen = policies(course)
    return [
        Row("requests", [str(each.begun) for each in totals]),
        Row("answered", counted("answered"), style="bold"),
        Row("fresh", counted("fresh"), part=True, style="green"),
        Row("from the cache", counted("cached"), part=True, style="yellow"),
        Row("failed", counted("failed"), style="red"),
        *([Row("cut off", counted("pending"))] if _any_cut(course) else []),
        Row("waited, median", waited(0.5)),
        Row("waited, p99", waited(0.99)),
        Row("attempts", [str(service.requests) for _, service in sides]),
        Row("in the outage", [str(sent_in_outage(service)) for _, service in sides], part=True),
        Row("retries", ["-", str(seen["retries"])]),
        Row("circuit opened", ["-", times(seen["circuit_opened"])]),
        Row("rejected", ["-", str(seen["rejected"])]),
    ]


def summary_table(course: Course, *, ascii_only: bool = False) -> Table:
    """Return the final table. Neither frame nor inner rules: with the title and the sentences it has to fit 24 lines."""
    table = Table(box=box.ASCII2 if ascii_only else box.MINIMAL, show_edge=False, pad_edge=False)
    table.add_column("")
    table.add_column(course.bare.name, justify="right", overflow="fold")
    table.add_column(course.resilient.name, justify="right", overflow="fold", style="bold")
    for row in summary_rows(course):
        table.add_row("  " * row.part + row.label, *row.values, style=row.style)
    return table


def times(count: int) -> str:
    """Return how often something happened, for people."""
    return "never" if count == 0 else "once" if count == 1 else f"{count} times"


def title(course: Course) -> str:
    """Return what the final table is about."""
    ended = f"stopped after {course.elapsed:.1f} s" if course.stopped else f"{course.options.seconds:g} s"
    return f"{ended} at {course.options.rate:g} requests/s, seed {course.options.seed}"


def _any_cut(course: Course) -> bool:
    return course.bare.total.pending > 0 or course.resilient.total.pending > 0


def sentences(course: Course) -> list[str]:
    """Return what was seen, in words; computed, whichever side does better. What was cut off is no failure and not counted."""
    bare, resilient = course.bare.total, course.resilient.total
    if not bare.begun:
        return ["It was stopped before the first request."]
    if not bare.finished and not resilient.finished:
        return ["It was stopped before the first request had ended."]
    told = [
        f"The bare client answered {percent(bare.answered, bare.finished)} of its callers, "
        f"trioresil {percent(resilient.answered, resilient.finished)}{_how_fresh(course.resilient)}."
    ]
    if _any_cut(course):
        told.append(
            f"Not counted, as they were cut off: {bare.pending} bare requests, {resilient.pending} through trioresil."
        )
    if course.overdue:
        told.append("It did not end in time and was cut off.")
    waits = [percentile(side.waits, 0.99) for side in (course.bare, course.resilient)]
    if waits[0] is not None and waits[1] is not None:
        told.append(
            f"The slowest 1 % waited {duration(waits[0])} or longer bare, {duration(waits[1])} or longer with trioresil."
        )
    outage = [sent_in_outage(service) for service in (course.bare_service, course.resilient_service)]
    if outage[0]:
        told.append(f"During the outage the service got {outage[0]} bare attempts and {outage[1]} through trioresil.")
    return told


def _how_fresh(side: Side) -> str:
    total = side.total
    if not total.cached:
        return ", all fresh" if total.fresh else ""
    oldest = f"at most {duration(side.oldest)} old"
    if not total.fresh:
        return f", all from the cache, {oldest}"
    fresh, cached = (percent(part, total.finished) for part in (total.fresh, total.cached))
    return f": {fresh} fresh and {cached} from the cache, {oldest}"
