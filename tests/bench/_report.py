"""From numbers to tables and targets."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from . import _calls
from ._http_report import http_tables, http_targets, pool_tables, pool_targets
from ._measure import Plan
from ._report_shapes import Table, Target, at_least, at_most
from ._shared import permit_tables, permit_targets, shared_tables, shared_targets
from ._telemetry import telemetry_tables
from ._workers import worker_tables, worker_targets

GROUPS = {
    "retry": "Retry, decorated",
    "call": "Retry, call form",
    "loop": "Retry, loop form",
    "timeout": "Timeout",
    "breaker": "CircuitBreaker, consecutive failures",
    "ratio": "CircuitBreaker, failure ratio",
    "bulkhead": "Bulkhead",
    "bucket": "TokenBucket, tokens are there",
    "fallback": "Fallback",
    "four": "Fallback, retry, bulkhead, breaker",
    "five": "Fallback, retry, bulkhead, breaker, timeout",
    "five call": "The same, call form",
}


class Costs:
    """The happy path's measurements, as costs added to the bare call."""

    def __init__(self, measured: Mapping[str, float]) -> None:
        self._bare = measured[_calls.BARE]
        self.added = {key: value - self._bare for key, value in measured.items() if key != _calls.BARE}
        self.checkpoint = self.added[_calls.CHECKPOINT]

    def ratio(self, dear: str, cheap: str) -> float:
        """Return how many times what `cheap` adds is what `dear` adds."""
        return self.added[dear] / max(self.added[cheap], 1e-9)

    def checkpoints(self, key: str) -> float:
        """Return what a contender adds, in checkpoints."""
        return self.added[key] / self.checkpoint


def targets(results: Mapping[str, Any]) -> list[Target]:
    """Return the targets that these results say something about."""
    found: list[Target] = []
    if "calls" in results:
        found += _call_targets(Costs(results["calls"]))
    for waiters, costs in results.get("handoff", {}).items():
        if int(waiters) >= 1_000:
            ratio = costs["trioresil.TokenBucket"] / costs["CapacityLimiter(1), async with"]
            name = f"TokenBucket, {int(waiters):,} waiters / bare CapacityLimiter(1) hand-off"
            found.append(at_most(name, ratio, 1.5))
    if "grants" in results:
        ratio = results["grants"]["trioresil, a queue"] / results["grants"]["ideal"]
        found.append(at_most("grants at 4 kHz, time taken / ideal", ratio, 1.05))
    found += pool_targets(results["pool"]) if "pool" in results else []
    found += worker_targets(results["workers"]) if "workers" in results else []
    found += shared_targets(results["shared"]) if "shared" in results else []
    found += permit_targets(results["permits"]) if "permits" in results else []
    found += http_targets(results["http"]) if "http" in results else []
    return found


def _call_targets(costs: Costs) -> list[Target]:
    stack = "five: tenacity + CapacityLimiter + fail_after"
    found = [at_most("five policies / by hand", costs.ratio("five: trioresil", "five: by hand"), 1.3)]
    if stack in costs.added:
        name = "tenacity + CapacityLimiter + fail_after / five policies"
        found.append(at_least(name, costs.ratio(stack, "five: trioresil"), 5))
    found.append(at_most("four policies, in checkpoints", costs.checkpoints("four: trioresil"), 0.65))
    found.append(at_most("breaker with FailureRatio, in checkpoints", costs.checkpoints("ratio: trioresil"), 0.5))
    for group, least in (("retry", 30), ("call", 30), ("loop", 12)):
        for rival in ("tenacity", "stamina"):
            if f"{group}: {rival}" in costs.added:
                ratio = costs.ratio(f"{group}: {rival}", f"{group}: trioresil")
                found.append(at_least(f"{rival} / Retry, {GROUPS[group].partition(', ')[2]}", ratio, least))
    return found


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Return all tables, the targets last."""
    makers: dict[str, Callable[[Any], list[Table]]] = {
        "calls": _call_tables,
        "failure": _failure_table,
        "handoff": _handoff_table,
        "drain": _drain_table,
        "grants": _grants_table,
        "pool": pool_tables,
        "workers": worker_tables,
        "telemetry": telemetry_tables,
        "shared": shared_tables,
        "permits": permit_tables,
        "http": http_tables,
    }
    found = [table for section, make in makers.items() if section in results for table in make(results[section])]
    rows = [
        (each.name, each.target, f"{each.measured:.3g}", "met" if each.met else "MISSED") for each in targets(results)
    ]
    return [*found, Table("Targets", ("", "target", "measured", ""), rows)] if rows else found


def _call_tables(measured: Mapping[str, float]) -> list[Table]:
    costs = Costs(measured)
    first = [("bare call", f"{measured[_calls.BARE]:.2f}"), ("trio.lowlevel.checkpoint()", f"{costs.checkpoint:.2f}")]
    found = [Table("Units", ("", "µs"), first)]
    for group, title in GROUPS.items():
        ours = costs.added[f"{group}: trioresil"]
        rows = []
        for key, added in sorted(costs.added.items(), key=lambda item: item[1]):
            if key.partition(": ")[0] == group:
                name = key.partition(": ")[2]
                rows.append((name, f"{added:.2f}", f"{costs.checkpoints(key):.3f}", f"{added / ours:.2f}"))
        found.append(Table(title, ("added to the bare call", "µs", "checkpoints", "× trioresil"), rows))
    return found


def _failure_table(measured: Mapping[str, float]) -> list[Table]:
    ours = measured["trioresil"]
    ranked = sorted(measured.items(), key=lambda item: item[1])
    rows = [(key, f"{cost:.2f}", f"{cost / ours:.2f}") for key, cost in ranked]
    return [Table("One failure, one retry at once", ("", "µs", "× trioresil"), rows)]


def _handoff_table(measured: Mapping[str, Mapping[str, float]]) -> list[Table]:
    rows = []
    for waiters, costs in measured.items():
        floor = costs["CapacityLimiter(1), async with"]
        rows += [(f"{int(waiters):,}", key, f"{cost:.2f}", f"{cost / floor:.2f}") for key, cost in costs.items()]
    header = ("waiters", "nobody sleeps", "CPU µs per acquire, spawn subtracted", "× hand-off")
    return [Table("A queue that moves as fast as it can", header, rows)]


def _drain_table(measured: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[Table]:
    rows = [
        (f"{int(waiters):,}", key, f"{value['us_per_acquire']:.1f}", f"{value['served']:.0%}")
        for waiters, found in measured.items()
        for key, value in found.items()
    ]
    header = ("waiters", "", "CPU µs per acquire, spawn included", "served")
    return [Table("A queue that drains at its rate", header, rows)]


def _grants_table(measured: Mapping[str, float]) -> list[Table]:
    ideal = measured["ideal"]
    rows = [(key, f"{seconds:.4f}", f"{seconds / ideal:.3f}") for key, seconds in measured.items()]
    return [Table("Grants at 4 kHz", ("", "s", "× ideal"), rows)]


def document(results: Mapping[str, Any], plan: Plan, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything as one JSON-ready document."""
    return {**about, "plan": asdict(plan), "results": results, "targets": [asdict(each) for each in targets(results)]}


def show(found: list[Table], about: Mapping[str, Any]) -> None:
    """Print tables, by rich if it is there."""
    if importlib.util.find_spec("rich") is None:
        _show_plain(found)
    else:
        _show_rich(found)
    missing = about["not_installed"]
    print("rivals not installed:", ", ".join(missing) if missing else "none; all were measured")


def _show_plain(found: list[Table]) -> None:
    for table in found:
        print(f"\n{table.title}")
        lines = [table.header, *table.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
        for line in lines:
            print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _show_rich(found: list[Table]) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(width=None if sys.stdout.isatty() else 130)
    for table in found:
        shown = RichTable(title=table.title, title_justify="left", title_style="bold")
        numbers = {cell for row in table.rows for cell in row if cell.replace(",", "").replace(".", "").isdigit()}
        for column, name in enumerate(table.header):
            numeric = all(row[column] in numbers for row in table.rows)
            shown.add_column(name, justify="right" if numeric else "left")
        for row in table.rows:
            shown.add_row(*row, style="red" if row[-1] == "MISSED" else None)
        console.print(shown)
