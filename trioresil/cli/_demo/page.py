"""The report: one HTML file with everything in it, that asks nothing of the network."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from importlib.resources import files
from typing import Any, Final

import attrs
import jinja2
from markupsafe import Markup

from .chart import time_axis
from .course import Course
from .figures import figures
from .report import document, duration, percent, sent_in_outage, sentences, summary_rows, times, title
from .series import seconds_shown
from .timeline import percentile
from .weather import Kind

WORDS: Final[dict[Kind, str]] = {"outage": "outage", "restarting": "restarting: 503 with Retry-After"}


@attrs.frozen
class Band:
    """A time of bad weather, in percent of the width."""

    kind: str
    left: float
    width: float


@attrs.frozen
class Headline:
    """What one comes for: a figure of both sides."""

    label: str
    values: Sequence[str]
    """Of the bare side, and of the resilient one."""
    note: str


def render(course: Course, now: datetime) -> str:
    """Return the report of a course in which something was sent."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_static),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _static("report.js")
    end = seconds_shown(course)
    return environment.get_template("report.html").render(
        title=title(course),
        style=Markup(_static("report.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        document=_embedded(document(course)),
        version=version("trioresil"),
        made_at=now,
        options=course.options,
        command=f"trioresil demo --seconds {course.options.seconds:g} --rate {course.options.rate:g} "
        f"--seed {course.options.seed} --report report.html",
        headlines=headlines(course),
        sentences=sentences(course),
        figures=figures(course),
        seconds=end,
        time_ticks=time_axis(end),
        bands=bands(course),
        words=WORDS,
        names=(course.bare.name, course.resilient.name),
        rows=summary_rows(course),
        errors=_errors(course),
        circuit_log=list(course.events.circuit_log),
        policies=[] if course.client is None else [repr(each)[1:-1] for each in course.client.pipeline.policies],
    )


def headlines(course: Course) -> list[Headline]:
    """Return the figures that the report begins with."""
    sides = (course.bare, course.resilient)
    answered = [percent(each.total.answered, each.total.finished) for each in sides]
    waited = [duration(percentile(each.waits, 0.99)) for each in sides]
    sent = [str(sent_in_outage(each)) for each in (course.bare_service, course.resilient_service)]
    cached = percent(course.resilient.total.cached, course.resilient.total.finished)
    return [
        Headline("Callers answered", answered, f"{cached} of trioresil’s callers were answered from its cache"),
        Headline("Slowest 1 % waited at least", waited, "for an answer or an error"),
        Headline(
            "Attempts in the outage",
            sent,
            f"the circuit opened {times(course.events.circuit_opened)}, to let it recover",
        ),
    ]


def bands(course: Course) -> list[Band]:
    """Return when the service answered nothing, as far as the charts reach."""
    end = seconds_shown(course)
    return [
        Band(each.kind, 100 * each.begins / end, 100 * (min(each.ends, end) - each.begins) / end)
        for each in course.weather.phases()
        if each.kind != "fair" and each.begins < end
    ]


def _errors(course: Course) -> list[tuple[str, int, int]]:
    """Return what callers got instead of an answer, the commonest first: (class, bare, resilient)."""
    bare, resilient = course.bare.errors, course.resilient.errors
    return [(name, bare[name], resilient[name]) for name, _ in (bare + resilient).most_common()]


def _embedded(value: Any) -> Markup:
    """Return JSON that can't end the element that it stands in."""
    return Markup(json.dumps(value, allow_nan=False).replace("<", "\\u003c"))


def _static(name: str) -> str:
    return files(__package__).joinpath("static", name).read_text(encoding="utf-8")


def has_something(course: Course) -> bool:
    """Tell whether there is anything to report: a request was made, and time has passed."""
    return course.bare.total.begun > 0 and seconds_shown(course) > 0 and math.isfinite(course.elapsed)
