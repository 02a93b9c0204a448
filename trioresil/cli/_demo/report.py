"""The figures of a course, as a document for JSON, and what they say, in a table and in sentences."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

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


def summary_table(course: Course, *, ascii_only: bool = False) -> Table:
    """Return the final table."""
    table = Table(box=box.ASCII2 if ascii_only else box.ROUNDED, title=_title(course), title_justify="left")
    table.add_column("")
    table.add_column(course.bare.name, justify="right", min_width=16)
    table.add_column(course.resilient.name, justify="right", style="bold", min_width=16)
    sides = [(course.bare, course.bare_service), (course.resilient, course.resilient_service)]

    def row(label: str, *values: str, style: str | None = None, end_section: bool = False) -> None:
        table.add_row(label, *values, style=style, end_section=end_section)

    def counted(value: int, total: int) -> str:
        return f"{value}  {percent(value, total):>7}"

    totals = [side.total for side, _ in sides]
    row("requests", *(str(each.begun) for each in totals))
    row("answered", *(counted(each.answered, each.begun) for each in totals), style="bold")
    row("  fresh", *(counted(each.fresh, each.begun) for each in totals), style="green")
    row("  from the cache", *(counted(each.cached, each.begun) for each in totals), style="yellow")
    row("failed", *(counted(each.failed, each.begun) for each in totals), style="red", end_section=not _any_cut(course))
    if _any_cut(course):
        row("cut off at the end", *(counted(each.pending, each.begun) for each in totals), end_section=True)
    row("waited, median", *(duration(percentile(side.waits, 0.5)) for side, _ in sides))
    row("waited, p99", *(duration(percentile(side.waits, 0.99)) for side, _ in sides), end_section=True)
    row("attempts at the service", *(str(service.requests) for _, service in sides))
    row("  during the outage", *(str(sent_in_outage(service)) for _, service in sides), end_section=True)
    seen = policies(course)
    row("retries", "-", str(seen["retries"]))
    row("circuit opened", "-", str(seen["circuit_opened"]))
    row("rejected by policies", "-", str(seen["rejected"]))
    return table


def _title(course: Course) -> str:
    ended = f"stopped after {course.elapsed:.1f} s" if course.stopped else f"{course.options.seconds:g} s"
    return f"{ended} at {course.options.rate:g} requests/s, seed {course.options.seed}"


def _any_cut(course: Course) -> bool:
    return course.bare.total.pending > 0 or course.resilient.total.pending > 0


def sentences(course: Course) -> list[str]:
    """Return what was seen, in words; computed, whichever side does better."""
    bare, resilient = course.bare.total, course.resilient.total
    if not bare.begun:
        return ["It was stopped before the first request."]
    told = [
        f"The bare client answered {percent(bare.answered, bare.begun)} of its callers, trioresil "
        f"{percent(resilient.answered, resilient.begun)}: {percent(resilient.fresh, resilient.begun)} with a fresh answer"
        + (
            f" and {percent(resilient.cached, resilient.begun)} with one from the cache, "
            f"at most {duration(course.resilient.oldest)} old."
            if resilient.cached
            else "."
        )
    ]
    if course.overdue:
        told.append("It did not end in time and was cut off.")
    waits = [percentile(side.waits, 0.99) for side in (course.bare, course.resilient)]
    if waits[0] is not None and waits[1] is not None:
        told.append(
            f"One caller in a hundred waited {duration(waits[0])} or longer with the bare client, "
            f"{duration(waits[1])} with trioresil."
        )
    outage = [sent_in_outage(service) for service in (course.bare_service, course.resilient_service)]
    if outage[0]:
        told.append(
            f"While the service was down, it got {outage[0]} attempts from the bare client and {outage[1]} from trioresil."
        )
    return told
