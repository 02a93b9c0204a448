"""`trioresil watch` on a terminal: a table that is drawn anew several times a second. Pure, but for the clock of the run.

Each state has a shape and a word of its own: colour only helps. Columns that find no room are left out, the least needed first.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

import attrs
import trio
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from .._kernel.health import HealthState
from ._output import Output
from ._watch import Result, Watched, Watching

FRAME_INTERVAL: Final = 0.2
MAX_SPARK: Final = 60
MIN_NAME: Final = 22
MIN_NAME_NARROW: Final = 14
NARROW: Final = 64
GAP: Final = "  "
STATE_WIDTH: Final = 11


@attrs.frozen(kw_only=True)
class Glyphs:
    """What is drawn with what."""

    healthy: str = "●"
    degraded: str = "▲"
    unhealthy: str = "✖"
    unknown: str = "○"
    bars: str = "▁▂▃▄▅▆▇█"
    failed: str = "×"
    branch: str = "└"
    rule: str = "─"
    dot: str = "·"
    more: str = "…"


UNICODE: Final = Glyphs()
ASCII: Final = Glyphs(
    healthy="+",
    degraded="!",
    unhealthy="x",
    unknown="?",
    bars="_.:-=+*#",
    failed="x",
    branch="`",
    rule="-",
    dot="-",
    more="~",
)
STYLES: Final = {
    HealthState.HEALTHY: "green",
    HealthState.DEGRADED: "yellow",
    HealthState.UNHEALTHY: "bold red",
    HealthState.UNKNOWN: "dim",
}
_BADNESS: Final = (HealthState.UNHEALTHY, HealthState.UNKNOWN, HealthState.DEGRADED, HealthState.HEALTHY)


class _Picture(io.StringIO):
    """A file that takes a picture, to be written by somebody else."""

    encoding = "utf-8"

    def take(self) -> str:
        drawn = self.getvalue()
        self.seek(0)
        self.truncate()
        return drawn


class LiveTable:
    """A display on a terminal. The last picture stays.

    A thread writes: a terminal that was stopped by Ctrl-S takes nothing, and must not stop the clock. Until it does, nothing new
    is drawn.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._picture = _Picture()
        self._picture.encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        self.console = Console(file=self._picture, force_terminal=True, highlight=False)

    async def run(self, watching: Watching, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._output.run)
            try:
                with Live(View(watching), console=self.console, auto_refresh=False, redirect_stdout=False) as live:
                    while True:
                        if self._output.idle:
                            live.refresh()
                            self._output.write(self._picture.take())
                        await trio.sleep(FRAME_INTERVAL)
            finally:
                self._output.write(self._picture.take())

    def checked(self, watched: Watched, result: Result) -> None:
        """Do nothing: it is seen in the next picture."""

    async def close(self, watching: Watching) -> None:
        """Have the last picture written, which has it all."""
        await self._output.flush()


class View:
    """What is drawn: it asks anew each time."""

    def __init__(self, watching: Watching) -> None:
        self._watching = watching

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = ASCII if options.ascii_only else UNICODE
        for line in picture(self._watching, options.max_width, console.size.height, glyphs, datetime.now(UTC)):
            line.no_wrap = True
            line.truncate(options.max_width)
            yield line


def picture(watching: Watching, width: int, height: int, glyphs: Glyphs, now: datetime) -> Iterator[Text]:
    """Give the lines of a picture that fits in `width` cells and `height` lines."""
    layout = _layout(watching.watched, width)
    yield _head(watching, width, glyphs)
    yield Text(glyphs.rule * width, style="dim")
    yield layout.titles()
    foot = [] if watching.page_url is None else [Text(f"live page: {watching.page_url}", style="dim")]
    room = height - 4 - len(foot)  # head, rule, titles, and the cursor's line
    rows, left_out = _fitting(watching.watched, max(2, room))
    for each in rows:
        yield layout.row(each, glyphs, now)
        if each.error is not None:
            yield Text.assemble((f"{glyphs.branch} ", "dim"), (each.error, "red"))
    if left_out:
        healthy = sum(each.state.is_healthy for each in left_out)
        yield Text(f"and {len(left_out)} more, {healthy} of them healthy: make the window higher", style="dim")
    yield from foot


def _head(watching: Watching, width: int, glyphs: Glyphs) -> Text:
    watched = watching.watched
    good = sum(each.state.is_healthy for each in watched)
    word, style = ("HEALTHY", "bold green") if watching.healthy else ("NOT HEALTHY", "bold red")
    if any(each.status is None for each in watched):
        word, style = "STARTING", "dim"
    line = Text.assemble(("trioresil watch", "bold"), GAP, (word, style), f"{GAP}{good} of {len(watched)} healthy")
    hint = "Ctrl-C ends" if watching.over is None else "over"
    if line.cell_len > width:
        line = Text.assemble((word, style), f"{GAP}{good} of {len(watched)} healthy")
    return line.append(" " * max(1, width - line.cell_len - len(hint))).append(hint, style="dim")


def _fitting(watched: Sequence[Watched], room: int) -> tuple[list[Watched], list[Watched]]:
    """Return what is shown, in its order, and what finds no room. Who is sick goes first when not all do."""

    def lines(each: Watched) -> int:
        return 1 if each.error is None else 2

    if sum(map(lines, watched)) <= room:
        return list(watched), []
    room -= 1  # for the line that tells of the others
    shown: set[int] = set()
    for each in sorted(watched, key=lambda each: _BADNESS.index(each.state)):
        if lines(each) > room:
            break
        room -= lines(each)
        shown.add(id(each))
    return [each for each in watched if id(each) in shown], [each for each in watched if id(each) not in shown]


@attrs.frozen
class _Layout:
    """Which columns there are, and how wide."""

    name: int
    spark: int
    columns: Sequence[str]

    def titles(self) -> Text:
        parts = ["STATE".ljust(STATE_WIDTH), "TARGET".ljust(self.name)]
        parts += ["LATENCY".ljust(self.spark)] if self.spark else []
        parts += [column.upper().rjust(_WIDTHS[column]) for column in self.columns]
        return Text(GAP.join(parts), style="dim")

    def row(self, watched: Watched, glyphs: Glyphs, now: datetime) -> Text:
        state = watched.state
        mark = getattr(glyphs, state.value)
        line = Text.assemble(
            (f"{mark} {state.name:<9}", STYLES[state]), GAP, clipped(watched.target.name, self.name, glyphs)
        )
        if self.spark:
            line.append(GAP).append_text(sparkline(watched.results, self.spark, glyphs))
        for column in self.columns:
            line.append(GAP).append(_cell(watched, column, now).rjust(_WIDTHS[column]))
        return line


_WIDTHS: Final = {"last": 7, "p50": 7, "p99": 7, "since": 6, "cert": 6, "spark": 8}


def _layout(watched: Sequence[Watched], width: int) -> _Layout:
    """Give each column its room, the most needed first; what is left goes to the names, then to the sparklines."""
    longest = max(6, *(cell_len(each.target.name) for each in watched))
    name = min(longest, MIN_NAME if width >= NARROW else MIN_NAME_NARROW)
    left = width - STATE_WIDTH - len(GAP) - name
    has_certificates = any(each.target.scheme == "tls" for each in watched)
    chosen = []
    for column in ("last", *["cert"] * has_certificates, "since", "spark", "p99", "p50"):
        needed = _WIDTHS[column] + len(GAP)
        if needed > left:
            break
        chosen.append(column)
        left -= needed
    more = max(0, min(longest - name, left))
    spark = min(MAX_SPARK, _WIDTHS["spark"] + left - more) if "spark" in chosen else 0
    return _Layout(name + more, spark, [each for each in ("last", "p50", "p99", "since", "cert") if each in chosen])


def _cell(watched: Watched, column: str, now: datetime) -> str:
    status = watched.status
    if status is None:
        return "-"
    if column == "last":
        last = watched.results[-1]
        return latency(last.seconds) if last.passed else "failed"
    if column == "since":
        return "-" if watched.since_utc is None else ago((now - watched.since_utc).total_seconds())
    if column == "cert":
        return "-" if watched.days_left is None else days(watched.days_left)
    return latency(status.latency_p50 if column == "p50" else status.latency_p99)


def sparkline(results: Sequence[Result], width: int, glyphs: Glyphs) -> Text:
    """Return the latencies of the last checks, newest at the right, the highest bar for the slowest of them."""
    shown = list(results)[-width:]
    slowest = max((each.seconds for each in shown if each.passed), default=0.0)
    line = Text(" " * (width - len(shown)))
    for each in shown:
        if not each.passed:
            line.append(glyphs.failed, style="bold red")
            continue
        level = round(each.seconds / slowest * (len(glyphs.bars) - 1)) if slowest else 0
        line.append(glyphs.bars[level], style="cyan")
    return line


def clipped(name: str, width: int, glyphs: Glyphs) -> str:
    """Return a name in so many cells. One that is too long loses its middle: URLs differ at their ends."""
    if cell_len(name) <= width:
        return set_cell_size(name, width)
    head = (width - 1) // 2
    tail = name
    while cell_len(tail) > width - 1 - head:
        tail = tail[1:]
    return set_cell_size(set_cell_size(name, head) + glyphs.more + tail, width)


def latency(seconds: float | None) -> str:
    """Return a latency to three digits, in at most seven cells."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        milliseconds = seconds * 1000
        places = 2 if milliseconds < 9.995 else 1 if milliseconds < 99.95 else 0
        return f"{milliseconds:.{places}f} ms"
    return f"{seconds:.2f} s" if seconds < 99.995 else f"{seconds:.0f} s"


def ago(seconds: float) -> str:
    """Return how long something lasts, in its two greatest units."""
    left = max(0, int(seconds))
    if left < 60:
        return f"{left}s"
    if left < 3600:
        return f"{left // 60}m{left % 60:02}s"
    if left < 86_400:
        return f"{left // 3600}h{left % 3600 // 60:02}m"
    return f"{left // 86_400}d{left % 86_400 // 3600:02}h"


def days(left: float) -> str:
    """Return for how many days a certificate is valid."""
    return f"{left:.1f} d" if left < 10 else f"{left:.0f} d"
