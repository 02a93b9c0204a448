"""Section `http`: requests a second, latency, CPU time and fairness of HTTP clients against nginx.

Each cell is a process of its own with a new pool. The contenders of a cell run one after another, shuffled anew in each round,
so that a slow minute of the machine hits neighbours alike; ratios are taken within a round, then their median.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ._http_child import CONTENDERS, Load
from ._http_server import Server, installed, serving
from ._measure import HttpPlan, Plan

ROOT = Path(__file__).parents[2]


def http(plan: Plan) -> dict[str, Any]:
    """Measure; by scheme, "tasks/connections" and contender: the median of each number, and each round's."""
    if installed() is None:
        return {"left out": "nginx is not installed"}
    with serving() as server:
        rounds = [
            _round(plan.http, server, number, random.Random(plan.seed + number)) for number in range(plan.http.rounds)
        ]
    return _merged(rounds)


Cell = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""By scheme, cell and contender: what a process measured."""


def _round(plan: HttpPlan, server: Server, number: int, rng: random.Random) -> Cell:
    found: Cell = {}
    for scheme in (each for each in plan.schemes if each in server.urls):
        for tasks, connections in plan.cells:
            row = found.setdefault(scheme, {}).setdefault(f"{tasks}/{connections}", {})
            contenders = list(plan.contenders or CONTENDERS)
            rng.shuffle(contenders)
            for contender in contenders:
                load = Load(
                    contender=contender,
                    url=server.urls[scheme],
                    ca=server.ca,
                    tasks=tasks,
                    connections=connections,
                    window=plan.window,
                    box=plan.box,
                    server=server.process,
                    gc_threshold=plan.gc_threshold,
                )
                row[contender] = result = _run(load)
                _progress(
                    f"round {number + 1}/{plan.rounds}  {scheme} {tasks}/{connections}  {contender}: {brief(result)}"
                )
    return found


def _run(load: Load) -> dict[str, Any]:
    """Run a process; one that doesn't even answer its alarm is killed and has served nothing."""
    command = [sys.executable, "-m", "tests.bench._http_child", json.dumps(asdict(load))]
    try:
        child = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=load.box + 30, check=False)
    except subprocess.TimeoutExpired:
        return {"whole": False, "errors": {}, "before": 0, "per_second": 0.0}
    if child.returncode:
        reason = child.stderr.decode(errors="replace").strip().splitlines() or ["killed"]
        return {"whole": False, "errors": {reason[-1]: 1}, "before": 0, "per_second": 0.0}
    time.sleep(0.05)  # nginx sees its connections closed
    result: dict[str, Any] = json.loads(child.stdout)
    return result


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def brief(result: dict[str, Any]) -> str:
    """Say in one phrase what came out."""
    if errors := result["errors"]:
        return "; ".join(f"{count} × {name}" for name, count in errors.items())
    if not result["before"]:
        return "none"
    return f"{result['per_second']:,.1f}" + ("" if result["whole"] else " (time was up)")


def _merged(rounds: Sequence[Cell]) -> dict[str, Any]:
    """Turn a list of rounds inside out."""
    return {
        scheme: {
            cell: {contender: _median([each[scheme][cell][contender] for each in rounds]) for contender in row}
            for cell, row in cells.items()
        }
        for scheme, cells in rounds[0].items()
    }


def _median(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    whole = [each for each in results if each["whole"]]
    numbers = [name for name in (whole or results)[0] if name not in ("whole", "errors", "before")]
    merged: dict[str, Any] = {name: statistics.median(each[name] for each in whole or results) for name in numbers}
    errors: dict[str, int] = {}
    for name, count in (pair for each in results for pair in each["errors"].items()):
        errors[name] = errors.get(name, 0) + count
    return {
        **merged,
        "whole": bool(whole),
        "before": max(each["before"] for each in results),
        "errors": errors,
        "rounds": [{name: each.get(name) for name in ("per_second", "cpu_us", "least", "most")} for each in results],
    }


def ratios(mine: dict[str, Any], other: dict[str, Any], name: str) -> list[float]:
    """Return, by round, how many times the other's number mine is; only where both have one that isn't 0."""
    pairs = zip(mine["rounds"], other["rounds"], strict=True)
    return [mine[name] / other[name] for mine, other in pairs if mine[name] and other[name]]


def median(values: Iterable[float]) -> float:
    """Return a median, or nan."""
    found = list(values)
    return statistics.median(found) if found else math.nan
