"""`trioresil demo`: its options."""

from __future__ import annotations

import click

from ._demo import show
from ._demo.course import Options
from ._options import Number

MAX_RATE = 80.0  # both clients, both services and the display share one process


@click.command()
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
def demo(seconds: float, seed: int, rate: float, as_json: bool) -> None:
    """Call a flaky HTTP service through a bare client and through trioresil, side by side.

    Starts the service twice on loopback, equally seeded: with latency that has a tail, connection resets, 503s, and a full
    outage in the middle. A bare httpx client and the same call through a trioresil Pipeline then send the same requests at the
    same fixed rate, and you see how each fares.

    Ctrl-C ends it early, with the results so far and exit code 130.
    """
    raise SystemExit(show.show(Options(seconds=seconds, seed=seed, rate=rate), as_json=as_json))
