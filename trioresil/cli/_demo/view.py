"""The live view: both sides beside each other, drawn anew several times a second. Pure: a function of the Course."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import attrs
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .course import Course
from .report import duration, percent, policies, times
from .timeline import Side, Slice, Tally, Timeline, percentile, together

CHART_HEIGHT: Final = 5
LABEL_WIDTH: Final = 8
MIN_WIDTH_BESIDE: Final = 64
"""Narrower terminals get the two sides one below the other."""


@attrs.frozen(kw_only=True)
class Glyphs:
    """What is drawn with what. Each kind in a row has a shape of its own: colour only helps."""

    fresh: str = "█"
    cached: str = "▒"
    some_cached: str = "░"
    """Some of the requests in this cell, too few for a cell of their own."""
    failed: str = "×"
    some_failed: str = "'"
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
    fresh="#",
    cached="+",
    some_cached=":",
    failed="x",
    pending=".",
    fair="-",
    done="=",
    left="-",
    at_most="<=",
    frame=box.ASCII,
)

STYLES: Final = {
    "fresh": "green",
    "cached": "yellow",
    "some_cached": "yellow",
    "failed": "bold red",
    "some_failed": "red",
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
WEATHER_WORDS: Final = {"fair": "up, but flaky", "outage": "DOWN", "restarting": "restarting"}


KINDS: Final = ("fresh", "cached", "failed", "pending")

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
        yield from _legend(course, inner - LABEL_WIDTH, glyphs)
        if course.events.circuit_log:
            at, what = course.events.circuit_log[-1]
            yield Text(f"at {at:.1f} s: {what}", style="dim", no_wrap=True, overflow="ellipsis")


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
    weather = WEATHER_WORDS[phase.kind]
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
    columns = width - LABEL_WIDTH
    rows = chart(course.timeline, _of_resilient if resilient else _of_bare, columns, glyphs)
    axes = [("service", _weather_axis(course, columns, glyphs))]
    axes.append(("circuit", _circuit_axis(course, columns)) if resilient else ("", Text("")))
    labelled = [("calls" if not index else "", row) for index, row in enumerate(rows)] + axes
    return Panel(
        Group(figures, *(Text.assemble((f"{label:<{LABEL_WIDTH}}", "dim"), row) for label, row in labelled)),
        title=f"[bold]{'through trioresil' if resilient else side.name}",
        title_align="left",
        width=width + 4,
        box=glyphs.frame,
        border_style="green" if resilient else "dim",
    )


def _figures(course: Course, side: Side, glyphs: Glyphs) -> list[tuple[str, Text]]:
    total = side.total
    finished = total.finished
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
    opened = f", opened {times(seen['circuit_opened'])}" if seen["circuit_opened"] else ""
    return [
        *lines,
        ("circuit", Text.assemble((state.upper(), STYLES[state]), opened)),
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
    """Return the kinds of one column's cells, bottom first; [] if nothing began.

    Cells are proportional, by largest remainder. Failures too few for a cell turn one of the commonest kind into
    `some_failed`; otherwise, likewise, `some_cached`.
    """
    if not tally.begun:
        return []
    shares = {kind: divmod(height * getattr(tally, kind), tally.begun) for kind in KINDS}
    missing = height - sum(whole for whole, _ in shares.values())
    rounded_up = sorted(KINDS, key=lambda kind: -shares[kind][1])[:missing]
    cells = [kind for kind in KINDS for _ in range(shares[kind][0] + (kind in rounded_up))]
    for kind in ("failed", "cached"):
        if getattr(tally, kind) and kind not in cells:
            usual = max(cells, key=cells.count)
            cells[len(cells) - 1 - cells[::-1].index(usual)] = f"some_{kind}"
            break
    return cells


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


def _legend(course: Course, columns: int, glyphs: Glyphs) -> Iterator[Text]:
    requests = ("fresh", "cached", "some_cached", "failed", "some_failed", "pending")
    words = {"some_cached": "few", "some_failed": "few", "pending": "waiting"}
    yield _explained("", [(getattr(glyphs, kind), kind, words.get(kind, kind)) for kind in requests]).append(
        f" a column is {course.options.seconds / columns:.2g} s", style="dim"
    )
    service = {"fair": "up", "outage": "down", "restarting": "restarting"}
    circuit = {"closed": "closed", "half-open": "probing", "open": "open"}
    yield _explained("service: ", [(getattr(glyphs, kind), kind, service[kind]) for kind in service]).append_text(
        _explained(" circuit: ", [(CIRCUIT_MARKS[state], state, word) for state, word in circuit.items()])
    )


def _explained(about: str, marks: list[tuple[str, str, str]]) -> Text:
    text = Text(about, style="dim", no_wrap=True, overflow="ellipsis")
    for mark, style, word in marks:
        text.append(mark, style=STYLES[style]).append(f" {word}  ", style="dim")
    return text


def progress_line(course: Course) -> str:
    """Return where a course stands, on one line of plain text."""
    weather = WEATHER_WORDS[course.weather.phase(course.elapsed).kind]
    state = course.client.breaker.state.value if course.client else "closed"
    return f"{course.elapsed:5.1f} s  {weather:<13}  {_in_short(course.bare)}  |  {_in_short(course.resilient)}, circuit {state}"


def _in_short(side: Side) -> str:
    total = side.total
    finished = total.finished
    cached = f" ({percent(total.cached, finished)} cached)" if total.cached else ""
    return f"{side.name}: {percent(total.answered, finished)} answered{cached}, p99 {duration(percentile(side.waits, 0.99))}"
