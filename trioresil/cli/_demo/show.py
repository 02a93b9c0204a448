"""Shows a course: live on a terminal, as plain lines elsewhere, as JSON if wanted; and ends it on a signal."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import datetime
from functools import partial
from typing import Any, Final

import attrs
import click
import trio
from rich.console import Console
from rich.live import Live

from .._live_page import ServeError
from .._options import Misuse
from .._output import send_nowhere
from .._signals import tell_of_signal
from .course import Course, Options, Watch
from .report import document, sentences, summary_table, title
from .report_file import ReportFile
from .view import View, progress_line

FRAME_INTERVAL: Final = 0.1
LINE_INTERVAL: Final = 1.0


@attrs.frozen(kw_only=True)
class Ways:
    """In which ways a course is shown."""

    as_json: bool = False
    report: ReportFile | None = None
    page: Callable[[], AbstractAsyncContextManager[Any]] | None = None
    """Opens the live page."""


def show(options: Options, ways: Ways) -> int:
    """Run a course and show it. Return the exit code: 0, or 128 + the signal's number if one ended it.

    Raises:
      Misuse: the live page can't be served.
    """
    course = Course(options)
    console = Console(highlight=False)
    reader = _Reader(_watch(console, as_json=ways.as_json))
    caught: int | None = signal.SIGINT
    try:
        caught = trio.run(_run, course, reader.watch, ways.page)
    except* KeyboardInterrupt:
        pass  # so early that nobody was listening yet, or a second one
    except* ServeError as group:
        problem = str(_first(group))
        raise Misuse(problem) from None
    written, told = (True, "") if ways.report is None else _write(ways.report, course)
    if not reader.is_gone:
        reader.print(lambda: _print_document(course) if ways.as_json else print_end(console, course))
    with suppress(OSError):  # stderr may be full too
        if told:
            click.echo(told, err=True)
        if reader.complaint:
            click.echo(reader.complaint, err=True)
    if reader.is_gone:
        send_nowhere(sys.stdout.fileno())
        return 1 if reader.complaint else 128 + signal.SIGPIPE
    return 128 + caught if caught is not None else 1 if course.overdue or not written else 0


def _watch(console: Console, *, as_json: bool) -> Watch:
    if as_json:
        return lines_to(Console(stderr=True, highlight=False, soft_wrap=True))
    if console.is_terminal and not console.is_dumb_terminal:
        return live_on(console)
    return lines_to(Console(highlight=False, soft_wrap=True))


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _print_document(course: Course) -> None:
    sys.stdout.write(json.dumps(document(course), indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def _write(report: ReportFile, course: Course) -> tuple[bool, str]:
    """Write the report. Return whether that went well, and what to tell about it. Ctrl-C stops it and leaves nothing."""
    from .page import has_something, render  # with a template engine, which only a report needs

    try:
        if not has_something(course):
            return True, "No report was written: it was stopped before the first request."
        report.write(render(course, datetime.now().astimezone()))
    except KeyboardInterrupt:
        return False, "No report was written: it was interrupted."
    except OSError as exc:
        return False, f"Error: the report {report.path} can't be written: {exc.strerror or exc}"
    return True, f"Report: {report.path}"


def print_end(console: Console, course: Course) -> None:
    """Print the final table and what it says; without a terminal, no sentence is broken into lines."""
    console.print(title(course), style="italic", markup=False)
    console.print(summary_table(course, ascii_only=console.options.ascii_only))
    for sentence in sentences(course):
        console.print(sentence, soft_wrap=not console.is_terminal)


class _Reader:
    """Whoever reads what is written: as in `trioresil demo | head`, he may go away, which ends the course; so does a full disk.

    Attributes:
      is_gone: whether nothing more can be written.
      complaint: what there is to say about it; nothing if he just went away.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.is_gone = False
        self.complaint = ""

    async def watch(self, course: Course) -> None:
        try:
            await self._watch(course)
        except (OSError, SystemExit) as exc:
            self._lose(exc)
            course.stop()

    def print(self, write: Callable[[], object]) -> None:
        """Write something, if that is possible."""
        try:
            write()
        except (OSError, SystemExit) as exc:
            self._lose(exc)

    def _lose(self, error: OSError | SystemExit) -> None:
        self.is_gone = True
        if isinstance(error, OSError) and not isinstance(
            error, BrokenPipeError
        ):  # newer versions of rich exit at that one
            self.complaint = f"Error: standard output can't be written: {error.strerror or error}"


async def _run(course: Course, watch: Watch, page: Callable[[], AbstractAsyncContextManager[Any]] | None) -> int | None:
    """Run it, with its page, and stop it at a signal. A second signal does what it does without us."""
    caught: list[int] = []

    def stop(number: int) -> None:
        caught.append(number)
        course.stop()

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(tell_of_signal, stop))
        if page is None:
            await course.run(watch)
        else:
            async with page() as served:
                click.echo(f"Live page until the end: {served.url}", err=True)
                await course.run(watch)
        nursery.cancel_scope.cancel(reason="the demo is over")
    return caught[0] if caught else None


def live_on(console: Console) -> Watch:
    """Return what draws a course on a terminal until it is cancelled; the picture is wiped in the end."""

    async def watch(course: Course) -> None:
        with Live(View(course), console=console, auto_refresh=False, transient=True) as live:
            while True:
                live.refresh()
                await trio.sleep(FRAME_INTERVAL)

    return watch


def lines_to(console: Console) -> Watch:
    """Return what prints a line about a course now and then until it is cancelled."""

    async def watch(course: Course) -> None:
        options = course.options
        console.print(
            f"{options.seconds:g} s at {options.rate:g} requests/s through each client, seed {options.seed}",
            markup=False,
        )
        while True:
            await trio.sleep(LINE_INTERVAL)
            console.print(progress_line(course), markup=False)

    return watch
