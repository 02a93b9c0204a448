"""Shows a course: live on a terminal, as plain lines elsewhere, as JSON if wanted; and ends it on a signal."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Final

import trio
from rich.console import Console
from rich.live import Live

from .course import Course, Options, Watch
from .report import document, sentences, summary_table, title
from .view import View, progress_line

FRAME_INTERVAL: Final = 0.1
LINE_INTERVAL: Final = 1.0


def show(options: Options, *, as_json: bool) -> int:
    """Run a course and show it. Return the exit code: 0, or 128 + the signal's number if one ended it."""
    course = Course(options)
    console = Console(highlight=False)
    if as_json:
        watch = lines_to(Console(stderr=True, highlight=False, soft_wrap=True))
    elif console.is_terminal and not console.is_dumb_terminal:
        watch = live_on(console)
    else:
        watch = lines_to(Console(highlight=False, soft_wrap=True))
    reader = _Reader(watch)
    caught: int | None = signal.SIGINT
    try:
        caught = trio.run(_run, course, reader.watch)
    except* KeyboardInterrupt:
        pass  # so early that nobody was listening yet, or a second one
    if reader.is_gone:
        return _close_stdout()
    if as_json:
        sys.stdout.write(json.dumps(document(course), indent=2, allow_nan=False) + "\n")
        sys.stdout.flush()
    else:
        print_end(console, course)
    return 128 + caught if caught is not None else 1 if course.overdue else 0


def print_end(console: Console, course: Course) -> None:
    """Print the final table and what it says; without a terminal, no sentence is broken into lines."""
    console.print(title(course), style="italic", markup=False)
    console.print(summary_table(course, ascii_only=console.options.ascii_only))
    for sentence in sentences(course):
        console.print(sentence, soft_wrap=not console.is_terminal)


class _Reader:
    """Whoever reads what a watch writes: as in `trioresil demo | head`, he may go away, which ends the course."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.is_gone = False

    async def watch(self, course: Course) -> None:
        try:
            await self._watch(course)
        except (BrokenPipeError, SystemExit):  # newer versions of rich make the one into the other
            self.is_gone = True
            course.stop()


def _close_stdout() -> int:
    """Send the rest of the output nowhere, so that the interpreter doesn't complain when it flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


async def _run(course: Course, watch: Watch) -> int | None:
    """Run it, and stop it at a signal. A second signal does what it does without us."""
    caught: list[int] = []

    async def wait_for_signal(task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                caught.append(number)
                break
        course.stop()

    async with trio.open_nursery() as nursery:
        await nursery.start(wait_for_signal)
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
