"""The policies and services that an instrument has heard of, and what their statistics come to.

They are held weakly. Those that have the same name are added up under it, so a policy that is made anew for each call makes
no new series, and two of one name don't overwrite each other. A counter never goes back: what an object counts is added as
the difference to the last look, and stays when the object is gone, or begins to count afresh in another run.
"""

from __future__ import annotations

import logging
import math
import threading
import weakref
from collections.abc import Collection, Iterator
from typing import Any, Final

from .._redaction import one_line
from .._retry_budget import RetryBudget
from ._figures import POLICIES, Figure, figures_of
from ._measures import Measure

OTHER: Final = "other"
SLICE: Final = 32  # objects that are read without a pause
TRIES: Final = 3  # of a snapshot that another thread's work disturbs
_logger = logging.getLogger("trioresil")

Pulled = dict[Measure, dict[tuple[str, ...], float]]


class Names:
    """Keeps the number of different values of labels bounded: what is beyond it counts as "other"."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[str, dict[str, str]] = {}

    def of(self, label: str, value: str) -> str:
        """Return the value to show, without secrets."""
        known = self._known.setdefault(label, {})
        shown = known.get(value)
        if shown is None:
            if len(known) >= self._most:
                return OTHER
            shown = known[value] = one_line(value)
        return shown


class _Owner:
    """One object that has figures."""

    __slots__ = ("complained", "last", "ref")

    def __init__(self, ref: weakref.ref[Any]) -> None:
        self.ref = ref
        self.last: dict[tuple[str, tuple[str, ...], str], float] = {}
        self.complained = False


class Seen:
    """All that was seen, and the totals of its counters."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._owners: dict[int, _Owner] = {}
        self._budgets: dict[int, _Owner] = {}
        self._totals: dict[tuple[Measure, tuple[str, ...]], float] = {}
        self._lock = threading.RLock()  # a scrape may come from a thread of its own

    def __len__(self) -> int:
        return len(self._owners)

    def add(self, policy: Any) -> None:
        """Take note of a policy or service."""
        known = self._owners.get(id(policy))
        if known is None or known.ref() is not policy:
            _owner(self._owners, policy)

    def pull(self, wanted: Collection[Measure]) -> Pulled:
        """Read the statistics of all that is alive, and return what they come to."""
        found: Pulled = {}
        for _ in self.pulling(wanted, found):
            pass
        return found

    def pulling(self, wanted: Collection[Measure], found: Pulled) -> Iterator[None]:
        """Do so into `found`, and pause after each few of them, so that a program with many can let others run."""
        budgets: set[tuple[str, int]] = set()
        owners = list(self._owners.values())
        for start in range(0, len(owners), SLICE):
            with self._lock:
                for owner in owners[start : start + SLICE]:
                    policy = owner.ref()
                    if policy is not None:
                        self._read_policy(owner, policy, wanted, found, budgets)
                    del policy  # not held while others run
            yield
        with self._lock:
            for (measure, labels), total in self._totals.items():
                if measure in wanted:
                    found.setdefault(measure, {})[labels] = total

    def _read_policy(
        self, owner: _Owner, policy: Any, wanted: Collection[Measure], found: Pulled, budgets: set[tuple[str, int]]
    ) -> None:
        name = self._names.of("policy", str(getattr(policy, "name", type(policy).__name__)))
        if POLICIES in wanted:
            kind = self._names.of("kind", type(policy).__name__)
            _combine(found, POLICIES, (name, kind), 1.0)
        self._read(owner, policy, name, wanted, found)
        budget = getattr(policy, "budget", None)
        if isinstance(budget, RetryBudget) and (name, id(budget)) not in budgets:
            budgets.add((name, id(budget)))
            self._read(_owner(self._budgets, budget), budget, name, wanted, found)

    def _read(self, owner: _Owner, thing: Any, name: str, wanted: Collection[Measure], found: Pulled) -> None:
        for figure in self._figures(owner, thing):
            measure = figure.measure
            if measure not in wanted or math.isnan(figure.value):
                continue
            values = zip(measure.labels, figure.labels, strict=True)
            labels = (name, *(self._names.of(label, value) for label, value in values))
            if measure.kind == "counter":
                self._count(owner, figure, labels)
            else:
                _combine(found, measure, labels, figure.value)

    def _figures(self, owner: _Owner, thing: Any) -> list[Figure]:
        for attempt in range(TRIES):
            try:
                return list(figures_of(thing.statistics()))
            except Exception:
                if attempt + 1 == TRIES and not owner.complained:
                    owner.complained = True
                    _logger.exception("the statistics of %s can't be read", one_line(repr(type(thing))))
        return []

    def _count(self, owner: _Owner, figure: Figure, labels: tuple[str, ...]) -> None:
        key = (figure.measure.name, labels, figure.part)
        last, now = owner.last.get(key, 0.0), figure.value
        owner.last[key] = now
        series = (figure.measure, labels)
        self._totals[series] = self._totals.get(series, 0.0) + (now - last if now >= last else now)


def _owner(owners: dict[int, _Owner], thing: Any) -> _Owner:
    key = id(thing)
    known = owners.get(key)
    if known is not None and known.ref() is thing:
        return known

    def forget(ref: weakref.ref[Any]) -> None:
        found = owners.get(key)
        if found is not None and found.ref is ref:
            del owners[key]

    owner = owners[key] = _Owner(weakref.ref(thing, forget))
    return owner


def _combine(found: Pulled, measure: Measure, labels: tuple[str, ...], value: float) -> None:
    series = found.setdefault(measure, {})
    before = series.get(labels)
    if before is None:
        series[labels] = value
    elif measure.combine == "sum":
        series[labels] = before + value
    else:
        series[labels] = max(before, value) if measure.combine == "max" else min(before, value)
