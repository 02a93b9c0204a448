"""`trioresil watch`: its options, what ends it, and its exit code."""

from __future__ import annotations

import os
import signal
import ssl
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import click
import trio

from .._services.health import HealthMonitor
from ._live_page import ServeError, address, import_page, serve_page
from ._options import Misuse, Number
from ._output import Output, OutputError
from ._signals import tell_of_signal
from ._targets import TargetError, read_targets
from ._watch import Display, Watching, trust
from ._watch import watch as run_watch
from ._watch_lines import json_lines, plain_lines
from ._watch_view import LiveTable

READER_LEFT: Final = 128 + signal.SIGPIPE
SECONDS: Final = Number(0, min_open=True)
EPILOG: Final = """\b
Examples:
  trioresil watch https://example.com tls://example.com dns://example.com
  trioresil watch --until-healthy --total-timeout 60 tcp://localhost:5432
  trioresil watch --count 1 --json --targets targets.toml

\b
A file of targets:
  interval = 10
  [[target]]
  url = "https://api.example.com/health"
  critical = true
"""


@click.command(epilog=EPILOG)
@click.argument("urls", nargs=-1, metavar="[URL]...")
@click.option("-f", "--targets", "file", type=click.Path(), help="A TOML file of more targets.")
@click.option(
    "--interval", type=SECONDS, metavar="SECONDS", help="Seconds from one check of a target to the next.  [default: 5]"
)
@click.option(
    "--timeout", type=SECONDS, metavar="SECONDS", help="Seconds after which a check has failed.  [default: 5]"
)
@click.option(
    "--rise",
    type=click.IntRange(1),
    metavar="N",
    help="How many checks in a row must pass to be healthy.  [default: 2, or --count if less]",
)
@click.option(
    "--fall",
    type=click.IntRange(1),
    metavar="N",
    help="How many in a row must fail to be unhealthy.  [default: 3, or --count if less]",
)
@click.option(
    "--degraded-above",
    type=SECONDS,
    metavar="SECONDS",
    help="Seconds above which a check is slow; slow is degraded, and counts as healthy.",
)
@click.option(
    "--expect-status", metavar="LIST", help="HTTP statuses that are well, like 200 or 2xx,301-308.  [default: 2xx,3xx]"
)
@click.option(
    "--min-days-left",
    type=Number(0, 100_000),
    metavar="DAYS",
    help="Days that a tls:// certificate must still be valid.  [default: 14]",
)
@click.option("--ca-file", type=click.Path(), help="Trust the authorities of this PEM file instead of the system's.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End when each target has been checked so often.")
@click.option("--until-healthy", is_flag=True, help="End as soon as everything is healthy.")
@click.option("--total-timeout", type=SECONDS, metavar="SECONDS", help="End after so many seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document a line.")
@click.option(
    "--serve", callback=address, metavar="HOST:PORT", help="Serve the live page, /metrics and /healthz meanwhile."
)
@click.option(
    "--token",
    envvar="TRIORESIL_TOKEN",
    show_envvar=True,
    help="What a browser must know to see the page; needed if HOST is not this machine alone.",
)
def watch(
    urls: tuple[str, ...],
    file: str | None,
    count: int | None,
    until_healthy: bool,
    total_timeout: float | None,
    as_json: bool,
    serve: tuple[str, int] | None,
    token: str | None,
    **settings: Any,
) -> None:
    """Check again and again whether servers are healthy, and show it.

    A URL is https://… or http://… (an answer with a good status), tcp://host:port (somebody listens), tls://host[:port] (a valid
    certificate, and for how many days) or dns://name (it has an address).

    On a terminal you see a live table, elsewhere a line for each check. It goes on until you press Ctrl-C, or until --count,
    --until-healthy or --total-timeout ends it.

    Exit codes: 0 healthy, 1 not healthy, 2 wrong use, 130 after Ctrl-C.
    """
    if token is not None and serve is None:
        token = None  # it may stand in the environment for another time
    try:
        targets = read_targets(urls, file, settings, count=count)
    except TargetError as exc:
        raise Misuse(str(exc)) from None
    for ca_file in {each.ca_file for each in targets.targets if each.ca_file or each.scheme not in ("tcp", "dns")}:
        try:
            trust(ca_file)
        except (OSError, ssl.SSLError) as exc:
            named = ca_file or f"{os.environ.get('SSL_CERT_FILE')}, of SSL_CERT_FILE in the environment,"
            raise Misuse(f"the CA file {named} can't be used: {exc.strerror or exc}") from None
    if serve is not None:
        import_page()
    watching = Watching(targets)
    serving = None if serve is None else partial(_page, serve, token)
    course = partial(run_watch, count=count, until_healthy=until_healthy, serve=serving)
    raise SystemExit(_exit_code(watching, partial(_run, watching, _display(watching, as_json), course, total_timeout)))


def _page(at: tuple[str, int], token: str | None, monitor: HealthMonitor) -> serve_page:
    return serve_page(at, token, title="trioresil watch", health=monitor)


def _display(watching: Watching, as_json: bool) -> Display:
    if as_json:
        return json_lines(Output())
    if sys.stdout.isatty():  # rich is content with FORCE_COLOR
        table = LiveTable(Output())
        if not table.console.is_dumb_terminal:
            return table
    return plain_lines(Output(), watching)


def _exit_code(watching: Watching, run: Callable[[], Any]) -> int:
    caught: int | None = signal.SIGINT
    problem: Exception | None = None
    try:
        caught = trio.run(run)
    except* KeyboardInterrupt:
        pass  # so early that nobody was listening yet, or a second one
    except* (OutputError, ServeError) as group:
        problem = _first(group)
    if isinstance(problem, OutputError) and problem.reader_left:
        return READER_LEFT
    if problem is not None:
        raise Misuse(str(problem))
    return 128 + caught if caught is not None else 0 if watching.healthy else 1


def _first(group: BaseExceptionGroup[Any]) -> Exception:
    error: Any = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error


async def _run(
    watching: Watching, display: Display, course: Callable[[Watching, Display], Any], total_timeout: float | None
) -> int | None:
    """Watch until it is over, or a signal came: then return its number. A second signal does what it does without us."""
    caught: list[int] = []

    def stop(number: int) -> None:
        caught.append(number)
        watching.over = "signal"
        nursery.cancel_scope.cancel(reason="a signal came")

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(tell_of_signal, stop))
        with trio.move_on_after(total_timeout if total_timeout is not None else float("inf")) as limit:
            await course(watching, display)
        if limit.cancelled_caught:
            watching.over = "total timeout"
        nursery.cancel_scope.cancel(reason="the watch is over")
    await display.close(watching)
    return caught[0] if caught else None
