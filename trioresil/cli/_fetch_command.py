"""`trioresil fetch`: its options, what ends it, and its exit code."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
from contextlib import suppress
from functools import partial
from typing import Any, Final, TextIO

import click
import trio

from .._http._download import check_digest
from .._redaction import without_secrets
from ._fetch_plan import Order, Wanted, make_orders, printable, read_checksums, read_list
from ._fetch_run import ENDS, FetchRun, Job, Settings
from ._fetch_text import document, summary, summary_document
from ._fetch_view import Bars, Lines, StderrConsole
from ._options import Misuse, Number
from ._output import Output, OutputError, send_nowhere
from ._signals import tell_of_signal

READER_LEFT: Final = 128 + signal.SIGPIPE
SECONDS: Final = Number(0, min_open=True)
UNITS: Final = {"": 1.0, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
EPILOG: Final = """\b
Examples:
  trioresil fetch https://example.com/data.tar.gz
  trioresil fetch -o data.tgz --checksum sha256:9f86d0… https://example.com/data
  trioresil fetch --input urls.txt --dir mirror --checksums SHA256SUMS --rate 10/s

\b
Exit codes: 0 all is there, 1 some download failed, 2 misuse, 130 after Ctrl-C.
"""


def _rate(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """Return requests a second, of 10, 10/s, 300/min or 1000/h."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/(s|min|m|h))?", value)
    rate = float(found[1]) / UNITS[found[2] or ""] if found else 0.0
    if not 0 < rate < math.inf:
        raise click.BadParameter(f"{value!r} is not like 10/s, 300/min or 1000/h.")
    return rate


def _digest(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    try:
        check_digest(value)
    except ValueError as exc:
        raise click.BadParameter(f"{str(exc).removeprefix('digest ')}; it looks like sha256:9f86d0….") from None
    return value


def _open(path: str) -> TextIO:
    try:
        return open(0 if path == "-" else path, encoding="utf-8", closefd=path != "-")
    except (OSError, ValueError) as exc:
        raise Misuse(f"{_called(path)}: {getattr(exc, 'strerror', None) or exc}") from None


def _called(path: str) -> str:
    return "stdin" if path == "-" else printable(path)


@click.command(epilog=EPILOG)
@click.argument("urls", nargs=-1, metavar="[URL]...")
@click.option(
    "-i",
    "--input",
    "list_file",
    type=click.Path(readable=False),
    metavar="FILE",
    help="A list of more URLs, one a line, each with a file name behind it if you like; - is stdin.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(readable=False),
    metavar="FILE",
    help="Where to put the file, if there is one URL only.",
)
@click.option(
    "-O",
    "--server-name",
    is_flag=True,
    help="Call files as the server does (Content-Disposition, or where it redirects to), not as the URL does.",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, readable=False),
    metavar="DIR",
    default=".",
    help="Where to put files; made if it isn't there.  [default: here]",
)
@click.option("--overwrite", is_flag=True, help="Replace files that are there. Otherwise they are left.")
@click.option(
    "--checksum", metavar="ALGORITHM:HEX", callback=_digest, help="What the one file must be, like sha256:9f86d0…"
)
@click.option(
    "--checksums",
    type=click.Path(readable=False),
    metavar="FILE",
    help="What the files must be, as sha256sum and its like write it.",
)
@click.option(
    "--max-attempts",
    type=click.IntRange(1),
    metavar="N",
    default=10,
    show_default=True,
    help="Attempts for a file, counted from the last progress.",
)
@click.option(
    "--timeout",
    type=SECONDS,
    metavar="SECONDS",
    default=30,
    show_default=True,
    help="Seconds for an attempt to be answered, and the longest silence while a file comes.",
)
@click.option(
    "--total-timeout",
    type=SECONDS,
    metavar="SECONDS",
    default=math.inf,
    help="Seconds for a file with all its attempts.  [default: no limit]",
)
@click.option(
    "--rate", metavar="N/s", callback=_rate, help="Most requests in a second (or /min, /h), to all hosts together."
)
@click.option(
    "--per-host",
    type=click.IntRange(1, 1000),
    metavar="N",
    default=4,
    show_default=True,
    help="Most downloads from a host at once.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 1000),
    metavar="N",
    default=16,
    show_default=True,
    help="Most downloads at once.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON to stdout for each file, and one for all.")
@click.option("-q", "--quiet", is_flag=True, help="Tell of failures only.")
def fetch(
    urls: tuple[str, ...], list_file: str | None, checksums: str | None, as_json: bool, quiet: bool, **given: Any
) -> None:
    """Download files, and go on where they broke off.

    A download that breaks is asked for again from where it broke, if the file is still the same. A file appears under its name
    when it is whole; until then, what has come is in FILE.part beside it. After Ctrl-C, or a crash, run the same command again:
    it goes on from there, and leaves what is already whole.

    Progress and the summary go to stderr.
    """
    try:
        sums = None
        if checksums is not None:
            with _open(checksums) as file:
                sums = read_checksums(file, _called(checksums))
        orders = _orders(urls, list_file, sums, given)
        code = _fetch(orders, _settings(sums, given), as_json=as_json, quiet=quiet)
    except KeyboardInterrupt:  # while a list was read, or a second one
        code = 130
    raise SystemExit(code)


def _orders(
    urls: tuple[str, ...], list_file: str | None, sums: dict[str, str] | None, given: dict[str, Any]
) -> list[Order]:
    wanted = [Wanted(url=url, source=f"argument {number}") for number, url in enumerate(urls, 1)]
    if list_file is not None:
        with _open(list_file) as file:
            wanted += read_list(file, _called(list_file))
    if given["checksum"] is not None and sums is not None:
        raise Misuse("--checksum and --checksums can't be given both")
    if given["output"] is not None and given["server_name"]:
        raise Misuse("--output and --server-name can't be given both")
    if given["output"] == "-":
        raise Misuse("--output - is not possible: what breaks off in stdout can't be gone on with")
    orders = make_orders(
        wanted,
        output=given["output"] and os.path.join(given["directory"], given["output"]),
        directory=given["directory"],
        server_names=given["server_name"],
        digest=given["checksum"],
        checksums=sums,
    )
    _make_directory(given["directory"], given["output"])
    return orders


def _make_directory(directory: str, output: str | None) -> None:
    for option, given in (("--dir", directory), ("--output", output)):
        if given == "":
            raise Misuse(f"{option} must not be empty")
    try:
        os.makedirs(directory, exist_ok=True)
    except (OSError, ValueError, RecursionError) as exc:  # it calls itself for each directory above
        raise Misuse(f"--dir: {printable(directory)}: {getattr(exc, 'strerror', None) or exc}") from None
    if output is None:
        return
    path = os.path.join(directory, output)
    if os.path.isdir(path) or not os.path.basename(path):
        raise Misuse(f"--output: {printable(path)} is a directory: use --dir for that")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise Misuse(f"--output: there is no directory {printable(os.path.dirname(path))}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise Misuse(f"--output: {printable(path)} is a device or the like, and no file")


def _settings(sums: dict[str, str] | None, given: dict[str, Any]) -> Settings:
    names = ("max_attempts", "timeout", "total_timeout", "rate", "per_host", "workers", "directory", "overwrite")
    return Settings(checksums=sums, **{name: given[name] for name in names})


class _Show:
    """Tells of changes: on stderr as wanted, and of each end as a line of JSON, if wanted."""

    def __init__(self, *, quiet: bool, output: Output | None) -> None:
        self.console = StderrConsole()
        self.quiet = quiet
        self.output = output
        self.view: Bars | Lines = Lines(self.console, quiet=quiet)

    def begin(self, jobs: list[Job]) -> None:
        shared = self.output is not None and sys.stdout.isatty()  # JSON would be written into the bars
        terminal = sys.stderr.isatty()  # FORCE_COLOR makes a console of rich say that it is one
        if terminal and not (self.quiet or shared or self.console.is_dumb_terminal):
            self.view = Bars(self.console, jobs)

    def changed(self, job: Job) -> None:
        if self.output is not None and job.state in ENDS:
            self.output.put(json.dumps(document(job), allow_nan=False))
        self.view.changed(job)

    def end(self, run: FetchRun) -> None:
        if self.output is not None:
            lost = self.output.take_lost()
            figures = summary_document(run.jobs, run.seconds)
            self.output.put(json.dumps({**figures, "lost_lines": lost} if lost else figures, allow_nan=False))
        if not self.quiet:
            for line in summary(run.jobs, run.seconds):
                self.console.print(line, markup=False, soft_wrap=True)


def _fetch(orders: list[Order], settings: Settings, *, as_json: bool, quiet: bool) -> int:
    """Run it, and return the exit code."""
    show = _Show(quiet=quiet, output=Output(sys.stdout.fileno()) if as_json else None)
    run = FetchRun(orders, settings, show)
    show.begin(run.jobs)
    caught: list[int] = []
    try:
        trio.run(partial(_run, run, show, caught))
    except* KeyboardInterrupt:  # a second one
        caught.append(signal.SIGINT)
    if run.output_error is not None:
        return _output_lost(run.output_error)
    if caught:
        return 128 + caught[0]
    return 1 if any(job.state == "failed" for job in run.jobs) else 0


async def _run(run: FetchRun, show: _Show, caught: list[int]) -> None:
    def stop(number: int) -> None:
        caught.append(number)
        run.stop("a signal came")

    async def draw() -> None:
        try:
            await show.view.run()
        except OSError as exc:
            run.stop_for_output(exc)

    async def write(output: Output) -> None:
        try:
            await output.run()
        except OutputError as exc:
            run.stop_for_output(_cause(exc))

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(tell_of_signal, stop))
        nursery.start_soon(draw)
        if show.output is not None:
            nursery.start_soon(write, show.output)
        await run.run()
        nursery.cancel_scope.cancel(reason="all downloads have ended")
    try:
        if run.output_error is None:
            show.end(run)
        if show.output is not None:
            await show.output.flush()
    except OSError as exc:
        run.stop_for_output(exc)
    except OutputError as exc:
        run.stop_for_output(_cause(exc))


def _cause(error: OutputError) -> OSError:
    return error.__cause__ if isinstance(error.__cause__, OSError) else OSError(str(error))


def _output_lost(error: OSError) -> int:
    """Say that the output could not be written, where that can be said; a reader who has gone wants to know nothing."""
    if isinstance(error, BrokenPipeError):
        send_nowhere(2)
        return READER_LEFT
    with suppress(OSError):
        text = f"Error: the output can't be written: {without_secrets(error.strerror or str(error))}\n"
        os.write(2, text.encode(errors="backslashreplace"))
    return 1
