"""The live view: both sides beside each other, drawn anew several times a second. Pure: a function of the Course."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .course import Course
from .report import duration, percent, policies
from .timeline import Side, Slice, Tally, Timeline, percentile, together

CHART_HEIGHT: Final = 5
MIN_WIDTH_BESIDE: Final = 64
"""Narrower terminals get the two sides one below the other."""


@attrs.frozen(kw_only=True)
class Glyphs:
    """What is drawn with what. Each kind has a shape of its own: colour only helps."""

    fresh: str = "█"
    cached: str = "▒"
    failed: str = "×"
    pending: str = "·"
    fair: str = "─"
    outage: str = "!"
    restarting: str = "~"
    done: str = "━"
    left: str = "─"
    at_most: str = "≤"
    frame: box.Box = box.ROUNDED


UNICODE: Final = Glyphs()
ASCII: Final = Glyphs(
    fresh="#", cached="+", failed="x", pending=".", fair="-", done="=", left="-", at_most="<=", frame=box.ASCII
)

STYLES: Final = {
    "fresh": "green",
    "cached": "yellow",
    "failed": "bold red",
    "pending": "dim",
    "fair": "dim",
    "outage": "bold red",
    "restarting": "yellow",
    "closed": "green",
    "half-open": "yellow",
    "open": "bold red",
    "isolated": "bold red",
}
CIRCUIT_MARKS: Final = {"closed": "-", "half-open": "h", "open": "O", "isolated": "I"}


TallyOf = Callable[[Slice], Tally]


class View:
    """What a Live display shows of a course; it asks the course anew each time it is drawn."""

    def __init__(self, course: Course) -> None:
        self._course = course

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        course = self._course
        glyphs = ASCII if options.ascii_only else UNICODE
        beside = options.max_width >= MIN_WIDTH_BESIDE
        width = min(options.max_width, 130)
        inner = (width // 2 if beside else width) - 4  # frame and padding
        yield _head(course, width, glyphs)
        panels = [
            _panel(course, course.bare, inner, glyphs),
            _panel(course, course.resilient, inner, glyphs),
        ]
        if beside:
            grid = Table.grid(expand=False)
            grid.add_row(*panels)
            yield grid
        else:
            yield Group(*panels)
        yield _legend(glyphs)
        if course.events.circuit_log:
            at, what = course.events.circuit_log[-1]
            yield Text(f"last: {what}, at {at:.1f} s", style="dim", no_wrap=True, overflow="ellipsis")


def _head(course: Course, width: int, glyphs: Glyphs) -> RenderableType:
    options = course.options
    phase = course.weather.phase(course.elapsed)
    left = max(0.0, options.seconds - course.elapsed)
    state = {
        "starting": "starting",
        "running": f"{left:4.1f} s left",
        "finishing": "waiting for the last requests",
        "over": "over",
    }[course.state]
    weather = {"fair": "up, but flaky", "outage": "DOWN", "restarting": "restarting, 503"}[phase.kind]
    line = Text.assemble(("trioresil demo", "bold"), "  ")
    if width >= MIN_WIDTH_BESIDE:
        line.append(f"{options.rate:g} requests/s through each   ")
    line.append("service: ")
    line.append(weather, style=STYLES[phase.kind] if phase.kind != "fair" else "green")
    line.append(" " * max(1, width - line.cell_len - len(state)) + state)
    done = round(width * min(1.0, course.elapsed / options.seconds))
    bar = Text.assemble((glyphs.done * done, "cyan"), (glyphs.left * (width - done), "dim"))
    line.truncate(width)
    return Group(line, bar)


def _of_bare(slice_: Slice) -> Tally:
    return slice_.bare


def _of_resilient(slice_: Slice) -> Tally:
    return slice_.resilient


def _panel(course: Course, side: Side, width: int, glyphs: Glyphs) -> Panel:
    resilient = side is course.resilient
    figures = Table.grid(padding=(0, 1))
    figures.add_column(style="dim", no_wrap=True, min_width=8)
    figures.add_column(no_wrap=True, overflow="ellipsis")
    for label, value in _figures(course, side, glyphs):
        figures.add_row(label, value)
    rows = chart(course.timeline, _of_resilient if resilient else _of_bare, width, glyphs)
    circuit = _circuit_axis(course, width) if resilient else Text("")
    return Panel(
        Group(figures, *rows, _weather_axis(course, width, glyphs), circuit),
        title=f"[bold]{'through trioresil' if resilient else side.name}",
        title_align="left",
        width=width + 4,
        box=glyphs.frame,
        border_style="green" if resilient else "dim",
    )


def _figures(course: Course, side: Side, glyphs: Glyphs) -> list[tuple[str, Text]]:
    total = side.total
    finished = total.begun - total.pending
    lines = [
        ("answered", Text(percent(total.answered, finished), style="bold")),
        (" fresh", _count(total.fresh, finished, "fresh")),
        (" cached", _count(total.cached, finished, "cached")),
        ("failed", _count(total.failed, finished, "failed")),
        ("waited", Text(f"p50 {duration(percentile(side.waits, 0.5))}, p99 {duration(percentile(side.waits, 0.99))}")),
        ("sent", Text(f"{total.sent} attempts, {total.pending} waiting")),
    ]
    if total.cached:
        lines[2][1].append(f"  {glyphs.at_most} {duration(side.oldest)} old", style="dim")
    if side is not course.resilient:
        return [*lines, ("circuit", Text("none", style="dim")), ("", Text(""))]
    seen = policies(course)
    state = seen["circuit"] or "closed"
    return [
        *lines,
        ("circuit", Text.assemble((state.upper(), STYLES[state]), f", opened {seen['circuit_opened']} times")),
        ("policies", Text(f"{seen['retries']} retries, {seen['rejected']} rejected")),
    ]


def _count(value: int, finished: int, kind: str) -> Text:
    return Text(f"{value:<4}{percent(value, finished):>7}", style=STYLES[kind] if value else "dim")


def chart(timeline: Timeline, tally_of: TallyOf, width: int, glyphs: Glyphs) -> list[Text]:
    """Return the rows of a chart of all requests, by when they began: what became of them, from fresh at the bottom up."""
    groups = timeline.columns(width)
    columns = [stack(together(map(tally_of, group)), CHART_HEIGHT) for group in groups]
    rows = []
    for level in reversed(range(CHART_HEIGHT)):
        row = Text()
        for column in columns:
            kind = column[level] if column else None
            row.append(getattr(glyphs, kind) if kind else " ", style=STYLES[kind] if kind else "")
        rows.append(row)
    return rows


def stack(tally: Tally, height: int) -> list[str]:
    """Return the kinds of one column's cells, bottom first; [] if nothing began. What occurred at all gets a cell."""
    if not tally.begun:
        return []
    parts = {kind: getattr(tally, kind) for kind in ("fresh", "cached", "failed", "pending")}
    cells = {kind: max(1, round(height * count / tally.begun)) for kind, count in parts.items() if count}
    while (excess := sum(cells.values()) - height) != 0:
        largest = max(cells, key=lambda kind: cells[kind])
        cells[largest] -= 1 if excess > 0 else -1
    return [kind for kind, count in cells.items() for _ in range(count)]


def _weather_axis(course: Course, width: int, glyphs: Glyphs) -> Text:
    axis = Text()
    for group in course.timeline.columns(width):
        if group[0].at > course.elapsed or course.state == "starting":
            break
        kind = max(group, key=lambda each: _BADNESS[each.weather]).weather
        axis.append(getattr(glyphs, kind), style=STYLES[kind])
    return axis


_BADNESS: Final = {"fair": 0, "restarting": 1, "outage": 2}


def _circuit_axis(course: Course, width: int) -> Text:
    axis = Text()
    for group in course.timeline.columns(width):
        state = _worst_state(group)
        axis.append(CIRCUIT_MARKS[state] if state else " ", style=STYLES[state] if state else "")
    return axis


def _worst_state(group: list[Slice]) -> str | None:
    states = [each.circuit for each in group if each.circuit is not None]
    return max(states, key=list(CIRCUIT_MARKS).index, default=None)


def _legend(glyphs: Glyphs) -> Text:
    legend = Text(no_wrap=True, overflow="ellipsis")
    for kind, word in (("fresh", "fresh"), ("cached", "cached"), ("failed", "failed"), ("pending", "waiting")):
        legend.append(getattr(glyphs, kind), style=STYLES[kind])
        legend.append(f" {word}  ", style="dim")
    for mark, style, word in (
        ("!", "outage", "outage"),
        ("~", "restarting", "restart"),
        ("h", "half-open", "probing"),
        ("O", "open", "open"),
    ):
        legend.append(mark, style=STYLES[style])
        legend.append(f" {word}  ", style="dim")
    return legend


def progress_line(course: Course) -> str:
    """Return where a course stands, on one line of plain text."""
    phase = course.weather.phase(course.elapsed).kind
    state = course.client.breaker.state.value if course.client else "closed"
    return f"{course.elapsed:5.1f} s  {phase:<10}  {_in_short(course.bare)}  |  {_in_short(course.resilient)}, circuit {state}"


def _in_short(side: Side) -> str:
    total = side.total
    finished = total.begun - total.pending
    cached = f" ({percent(total.cached, finished)} cached)" if total.cached else ""
    return f"{side.name}: {percent(total.answered, finished)} answered{cached}, p99 {duration(percentile(side.waits, 0.99))}"
