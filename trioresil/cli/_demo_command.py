"""`trioresil demo`: its options."""

from __future__ import annotations

import importlib
from functools import partial

import click

from ._demo.course import Options
from ._demo.report_file import ReportFile
from ._demo.show import Ways, show
from ._live_page import address, import_page, serve_page
from ._options import Misuse, Number

DEFAULT_ADDRESS = "127.0.0.1:8080"
MAX_RATE = 80.0  # both clients, both services and the display share one process


@click.command(short_help="Call a flaky service through a bare client and through trioresil.")
@click.option(
    "--seconds",
    type=Number(1, 600),
    default=20.0,
    show_default=True,
    help="How long requests are sent. The outage takes a fifth of it; below about 15 seconds that is too short for a circuit "
    "breaker to matter, and the service's Retry-After, a second at least, is long beside it.",
)
@click.option(
    "--seed",
    type=int,
    default=1,
    show_default=True,
    help="Decides which requests the service fails. The faults are seeded, the timing is real: figures differ a little from "
    "run to run.",
)
@click.option(
    "--rate", type=Number(1, MAX_RATE), default=40.0, show_default=True, help="Requests a second, through each client."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document to stdout; progress goes to stderr.")
@click.option("--report", metavar="FILE", help="Write a report with charts: one HTML file that needs no network.")
@click.option(
    "--serve",
    is_flag=False,
    flag_value=DEFAULT_ADDRESS,
    callback=address,
    metavar="[HOST:PORT]",
    help=f"Show the run in the live page too, as long as it lasts.  [by itself: {DEFAULT_ADDRESS}]",
)
@click.option(
    "--token",
    envvar="TRIORESIL_TOKEN",
    show_envvar=True,
    help="What a browser must know to see the page; needed if HOST is not this machine alone.",
)
def demo(
    seconds: float,
    seed: int,
    rate: float,
    as_json: bool,
    report: str | None,
    serve: tuple[str, int] | None,
    token: str | None,
) -> None:
    """Call a flaky HTTP service through a bare client and through trioresil, side by side.

    Starts the service twice on loopback, equally seeded: with latency that has a tail, connection resets, 503s, and a full
    outage in the middle. A bare httpx client and the same call through a trioresil Pipeline then send the same requests at the
    same fixed rate, and you see how each fares.

    Ctrl-C ends it early, with the results (and the report) so far and exit code 130.
    """
    page = None
    if serve is not None:
        import_page()
        page = partial(serve_page, serve, token, title="trioresil demo")
    file = None if report is None else _take(report)
    try:
        options = Options(seconds=seconds, seed=seed, rate=rate, on_page=serve is not None)
        code = show(options, Ways(as_json=as_json, report=file, page=page))
    finally:
        if file is not None:
            file.close()
    raise SystemExit(code)


def _take(path: str) -> ReportFile:
    """Take the place of a report before anything runs: what is missing or in the way is told now."""
    importlib.import_module("._demo.page", __package__)
    if not path or "\0" in path:
        raise Misuse(f"--report {path!r} is no name of a file")
    try:
        return ReportFile(path)
    except OSError as exc:
        raise Misuse(f"--report {path}: it can't be written: {exc.strerror or exc}") from None
