"""Tables and targets of sections `http` and `pool`.

Every client here is one thread that nginx waits for, so on an idle machine requests a second and requests a CPU second say the
same ("client busy" is then near 100 %). On a busy machine only the latter is the client's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ._http import brief, median, ratios
from ._http_child import CONTENDERS
from ._report_shapes import Table, Target, at_least, at_most

FAIR_CELL = "200/4"
HEADER = (
    "client",
    "requests/s",
    "p50 ms",
    "p99 ms",
    "CPU µs each",
    "× httpx2",
    "a CPU s",
    "a task's share",
    "client busy",
    "nginx busy",
)


def http_tables(measured: Mapping[str, Any]) -> list[Table]:
    """Return one table a cell."""
    if "left out" in measured:
        return [Table("HTTP clients against nginx", ("",), [(measured["left out"],)])]
    found = []
    for scheme, cells in measured.items():
        for cell, row in cells.items():
            tasks, _, connections = cell.partition("/")
            title = f"{scheme.upper()}, {int(tasks):,} tasks on at most {int(connections):,} connections"
            rows = [_row(name, row[name], row.get("httpx2")) for name in CONTENDERS if name in row]
            found.append(Table(title, HEADER, rows))
    return found


def _row(name: str, result: dict[str, Any], reference: dict[str, Any] | None) -> tuple[str, ...]:
    ratio = _number(median(ratios(result, reference, "per_second"))) if reference else ""
    by_cpu = _number(median(ratios(reference, result, "cpu_us"))) if reference else ""
    if not result["whole"]:
        return (name, brief(result), *[""] * 3, ratio, *[""] * 4)
    return (
        name,
        f"{result['per_second']:,.0f}" + (", " + brief(result) if result["errors"] else ""),
        f"{result['p50_ms']:.2f}",
        f"{result['p99_ms']:.2f}",
        f"{result['cpu_us']:.0f}",
        ratio,
        by_cpu,
        f"{result['least']:.0f} to {result['most']:.0f}",
        f"{result['client_busy']:.0%}",
        f"{result['server_busy']:.0%}",
    )


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def http_targets(measured: Mapping[str, Any]) -> list[Target]:
    """Return what the numbers say about the promises, by scheme."""
    found: list[Target] = []
    for scheme, cells in measured.items():
        if scheme == "left out":
            return []
        for cell, ours, other, least in (
            ("100/100", "trioresil, httpx", "httpx", 15.0),
            ("100/100", "trioresil, httpx2", "httpx2", 1.4),
            ("1000/1000", "trioresil, httpx2", "httpx2", 4.0),
            ("1/100", "trioresil, httpx", "httpx", 1.0),
            ("1/100", "trioresil, httpx2", "httpx2", 1.0),
        ):
            row = cells.get(cell, {})
            if ours in row and other in row and row[other]["per_second"]:
                ratio = median(ratios(row[ours], row[other], "per_second")) if row[ours]["per_second"] else 0.0
                found.append(at_least(f"{scheme} {cell}, requests a second: {ours} / {other}", ratio, least))
                if by_cpu := ratios(row[other], row[ours], "cpu_us"):
                    name = f"{scheme} {cell}, requests a CPU second: {ours} / {other}"
                    found.append(at_least(name, median(by_cpu), least))
        found += _growth(scheme, cells) + _fairness(scheme, cells)
    return found


def _growth(scheme: str, cells: Mapping[str, Any]) -> list[Target]:
    found = []
    for ours in ("trioresil, httpx", "trioresil, httpx2"):
        many, one = cells.get("5000/1000", {}).get(ours), cells.get("1/100", {}).get(ours)
        if many and one and many["whole"] and one["whole"]:
            name = f"{scheme}, {ours}: CPU a request at 5,000 tasks / at 1"
            found.append(at_most(name, median(ratios(many, one, "cpu_us")), 1.3))
    return found


def _fairness(scheme: str, cells: Mapping[str, Any]) -> list[Target]:
    found = []
    for name, result in cells.get(FAIR_CELL, {}).items():
        if name.startswith("trioresil") and result["whole"]:
            ratio = result["most"] / result["least"] if result["least"] else math.inf
            found.append(at_most(f"{scheme} {FAIR_CELL}, {name}: most / least served", ratio, 1.3))
    return found


def pool_tables(measured: Mapping[str, float]) -> list[Table]:
    """Return the table of `pool`."""
    bare, checkpoint = measured["bare block"], measured["checkpoint"]
    rows = []
    for key, cost in sorted(measured.items(), key=lambda item: item[1]):
        if key != "bare block":
            added = cost - bare
            rows.append((key, f"{added:.2f}", f"{added / (checkpoint - bare):.3f}"))
    return [Table("A lease from an idle pool", ("added to the bare call", "µs", "checkpoints"), rows)]


def pool_targets(measured: Mapping[str, float]) -> list[Target]:
    """Return the promise about acquire and release."""
    bare = measured["bare block"]
    if "open_pool, acquire and release" not in measured:
        return []
    unit = max(measured["checkpoint"] - bare, 1e-9)
    added = (measured["open_pool, acquire and release"] - bare) / unit
    return [at_most("open_pool, acquire and release, in checkpoints", added, 1)]
