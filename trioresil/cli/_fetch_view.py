"""How a run of `trioresil fetch` is shown: bars on a terminal, lines elsewhere, only failures when it is to be quiet."""

from __future__ import annotations

from collections import Counter, deque
from typing import Final, NoReturn

import trio
from rich import filesize
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ._fetch_plan import printable
from ._fetch_run import ENDS, Job
from ._fetch_text import STYLES, WORDS, clock, duration, retry_line, times, told

FRAME_INTERVAL: Final = 0.1
SPEED_WINDOW: Final = 5.0
WORD_WIDTH: Final = 7


class StderrConsole(Console):
    """A console on stderr that raises BrokenPipeError where its reader has gone, as other files do."""

    def __init__(self) -> None:
        super().__init__(stderr=True, highlight=False)

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


def line_of(job: Job) -> Text:
    """Return the line that stays of a job which has ended."""
    return Text.assemble((f"{WORDS[job.state]:<{WORD_WIDTH}}", STYLES[job.state]), " ", told(job))


class Lines:
    """A line for each retry and each end, as they come."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet
        self._told: dict[int, int] = {}

    async def run(self) -> None:
        """Nothing is to be drawn in between."""

    def changed(self, job: Job) -> None:
        if job.state in ENDS:
            if not self._quiet or job.state in ("failed", "unfinished"):
                self._console.print(line_of(job), soft_wrap=True)
        elif not self._quiet and len(job.retries) > self._told.get(job.order.number, 0):
            self._told[job.order.number] = len(job.retries)
            self._console.print(Text(f"{'again':<{WORD_WIDTH}} {retry_line(job)}"), soft_wrap=True)


class Bars:
    """A bar for each file that is under way, drawn anew several times a second; what has ended scrolls away above them."""

    def __init__(self, console: Console, jobs: list[Job]) -> None:
        self._console = console
        self._jobs = jobs
        self._active: dict[int, Job] = {}
        self._speeds: dict[int, _Speed] = {}
        self._counts: Counter[str] = Counter()
        self._live = Live(self, console=console, auto_refresh=False, transient=True)

    async def run(self) -> None:
        """Draw until cancelled; the bars are wiped in the end."""
        with self._live:
            while True:
                self._live.refresh()
                await trio.sleep(FRAME_INTERVAL)

    def changed(self, job: Job) -> None:
        number = job.order.number
        if job.state in ENDS:
            self._active.pop(number, None)
            self._speeds.pop(number, None)
            self._counts[job.state] += 1
            self._console.print(line_of(job), soft_wrap=True)
            return
        self._active[number] = job
        self._speeds.setdefault(number, _Speed()).note(trio.current_time(), job.done_bytes)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = max(1, options.size.height - 3)
        shown = list(self._active.values())[:room]
        width = options.max_width
        table = Table.grid(padding=(0, 1), expand=False)
        name_width = min(32, max(12, width // 4))
        table.add_column(no_wrap=True, overflow="ellipsis", width=name_width)
        bar_width = max(8, min(30, width - name_width - 50))
        table.add_column(width=bar_width)
        table.add_column(justify="right", no_wrap=True, width=4)
        table.add_column(no_wrap=True, overflow="ellipsis", width=max(10, width - name_width - bar_width - 8))
        for job in shown:
            table.add_row(*self._row(job, bar_width))
        yield table
        yield Text(self._total(len(self._active) - len(shown)), style="dim", no_wrap=True, overflow="ellipsis")

    def _row(self, job: Job, bar_width: int) -> tuple[Text, ProgressBar, Text, Text]:
        now, total = trio.current_time(), job.total_bytes
        bar = ProgressBar(
            total=total or 100,
            completed=job.done_bytes if total else 0,
            width=bar_width,
            pulse=total is None and job.pending is None and job.done_bytes > 0,
            animation_time=now,
        )
        share = Text(f"{int(100 * job.done_bytes / total)}%" if total else "")
        name = Text(printable(job.name))
        if job.pending is not None:
            wait = job.pending.due_at - now
            when = f"again in {duration(wait)}" if wait > 0 else "trying again"
            return name, bar, share, Text(f"{when}: {job.pending.reason}", style="yellow")
        return name, bar, share, Text(self._pace(job, now))

    def _pace(self, job: Job, now: float) -> str:
        if not job.done_bytes:
            return "asking"
        speed = self._speeds[job.order.number].at(now)
        size = filesize.decimal(job.done_bytes)
        if job.total_bytes:
            size = f"{size} of {filesize.decimal(job.total_bytes)}"
        if speed <= 0:
            return size
        left = f", {clock((job.total_bytes - job.done_bytes) / speed)} left" if job.total_bytes else ""
        return f"{size}, {filesize.decimal(int(speed))}/s{left}"

    def _total(self, hidden: int) -> str:
        counts = self._counts
        ended = sum(counts.values())
        parts = [f"{ended} of {times(len(self._jobs), 'file')}"]
        if hidden:
            parts.append(f"{hidden} more under way")
        if counts["failed"]:
            parts.append(f"{counts['failed']} failed")
        retries = sum(len(job.retries) for job in self._jobs)
        if retries:
            parts.append(times(retries, "retry"))
        return ", ".join([*parts, "Ctrl-C keeps what has come"])


class _Speed:
    """Bytes a second, over the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def note(self, now: float, done_bytes: int) -> None:
        if self._samples and done_bytes < self._samples[-1][1]:
            self._samples.clear()  # it begins anew
        self._samples.append((now, done_bytes))
        while now - self._samples[0][0] > SPEED_WINDOW:
            self._samples.popleft()

    def at(self, now: float) -> float:
        began_at, first = self._samples[0]
        return (self._samples[-1][1] - first) / (now - began_at) if now > began_at else 0.0
