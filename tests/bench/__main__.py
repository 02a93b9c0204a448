"""What the policies cost, against writing the same by hand and against other libraries: `python -m tests.bench`.

The other libraries are installed by the extra `bench`; those that aren't there are left out and named. Nothing is asserted:
times belong to a machine. Compare ratios of one run, and look at several runs before believing a small difference.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import trio

from . import _calls, _http, _pool, _queues, _report, _rivals, _shared, _telemetry, _workers
from ._http_child import CONTENDERS
from ._measure import HttpPlan, Plan

SECTIONS: dict[str, Callable[[Plan], Any]] = {
    "calls": _calls.happy,
    "failure": _calls.failure,
    "handoff": _queues.handoff,
    "drain": _queues.drain,
    "grants": _queues.grants,
    "pool": _pool.pool,
    "workers": _workers.workers,
    "telemetry": _telemetry.telemetry,
    "shared": _shared.shared,
    "permits": _shared.permits,
    "http": _http.http,
}


def run(plan: Plan, sections: Sequence[str] = tuple(SECTIONS), *, as_json: bool = False) -> dict[str, Any]:
    """Measure sections, print tables or one JSON document, and return the document."""
    results = {name: SECTIONS[name](plan) for name in sections}
    about = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "trio": trio.__version__,
        "machine": platform.platform(),
        "not_installed": _rivals.missing(),
    }
    document = _report.document(results, plan, about)
    if as_json:
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        _report.show(_report.tables(results), about)
    return document


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=61, help="rounds for calls; others get as many as time allows")
    parser.add_argument("--seed", type=int, default=0, help="for the order within the rounds")
    parser.add_argument(
        "--only", "--section", choices=list(SECTIONS), action="append", help="run this section; may be repeated"
    )
    parser.add_argument(
        "--fast",
        "--quick",
        action="store_true",
        help="leave out the queues of 100,000, the million items, and most of section http",
    )
    parser.add_argument("--http-rounds", type=int, help="rounds for section http; default: 3, or 1 with --quick")
    parser.add_argument(
        "--cell", action="append", help="of section http only this one: tasks/connections; may be repeated"
    )
    parser.add_argument("--scheme", choices=["http", "https"], action="append", help="of section http only this scheme")
    parser.add_argument("--client", choices=list(CONTENDERS), action="append", help="of section http only this client")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--gc-threshold", type=int, default=0, help="for the clients of section http; e.g. 50000")
    given = parser.parse_args(arguments)
    if given.rounds < 1:
        parser.error("--rounds must be at least 1")
    if given.http_rounds is not None and given.http_rounds < 1:
        parser.error("--http-rounds must be at least 1")
    waiters = (10, 1_000, 10_000) if given.fast else (10, 1_000, 10_000, 100_000)
    items = (10_000, 100_000) if given.fast else (10_000, 1_000_000)
    plan = Plan(
        rounds=given.rounds,
        seed=given.seed,
        waiters=waiters,
        memory_items=items,
        shared_rounds=1 if given.fast else 5,
        http=_http_plan(given),
    )
    run(plan, given.only or tuple(SECTIONS), as_json=given.json)


def _http_plan(given: argparse.Namespace) -> HttpPlan:
    """Return the whole plan or the short one, narrowed to what was asked for."""
    plan = HttpPlan()
    if given.fast:
        plan = replace(
            plan,
            rounds=1,
            cells=((1, 100), (100, 100), (200, 4), (1_000, 1_000)),
            schemes=("http",),
            window=1.0,
            box=6.0,
        )
    asked: dict[str, Any] = {
        "rounds": given.http_rounds,
        "gc_threshold": given.gc_threshold,
        "schemes": given.scheme and tuple(given.scheme),
        "contenders": given.client and tuple(given.client),
        "cells": given.cell and tuple(tuple(map(int, each.split("/"))) for each in given.cell),
    }
    return replace(plan, **{name: value for name, value in asked.items() if value})


if __name__ == "__main__":
    main()
