"""The pulse of the live page: which policies there are, what they said lately, and what happened lately, in bounded memory.

The law of this file:

1. It hears events in the tasks that cause them, so hearing costs microseconds: a count, and for some of them a line of text. Of
   what is frequent at most MAX_LINES lines are kept in a second; what is left out is counted. Transitions have their own share.
2. It keeps no policy alive, and no error: a policy is held weakly, an error is a line of text from the moment it is heard.
3. Statistics are pulled, a slice of the policies at a time: whoever calls `sample` decides when to let others run. A policy
   whose `statistics()` raises is shown as such and harms nobody.
4. Each change has a version, so that a reader who gets an entry whole can tell which changes it holds already.

No Trio: both clocks are arguments.
"""

from __future__ import annotations

import itertools
import math
import weakref
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from .. import _events
from .._redaction import one_line, safe_error
from ._dashboard_figures import Figures, Reader, describe, plain
from ._dashboard_lines import TRANSITIONS, line_of

MAX_POLICIES: Final = 5_000
MAX_EVENTS: Final = 1_000
MAX_LINES: Final = 50  # a second, of what is frequent
MAX_SAME: Final = 3  # a second, of the same kind at the same policy
MAX_TRANSITIONS: Final = 200  # a second
MAX_DURATIONS: Final = 200
TOTALS: Final = {
    "calls": "CallFinished",
    "retries": "RetryScheduled",
    "rejected": "CallRejected",
    "timeouts": "TimedOut",
}

_TRANSITIONS: Final = frozenset(TRANSITIONS)
_QUIET: Final = frozenset({"success", "rejected", "cancelled"})  # a rejection has a line of its own, from who rejected
_BAD: Final = frozenset({"failure", "rejected"})
_RATED: Final = {  # by kind: the figure, or the event, whose growth is its rate
    "circuit": "rejected",
    "limit": "rejected",
    "bucket": "granted",
    "pool": "reused",
    "http-pool": "requests",
    "http": "requests",
    "workers": "succeeded",
    "map": "read",
    "stream": "received",
    "supervisor": "restarts",
    "retry": "RetryScheduled",
    "timeout": "TimedOut",
    "fallback": "FellBack",
    "pipeline": "CallFinished",
}


class Series:
    """The last so many numbers, oldest first. What was missing is NaN."""

    __slots__ = ("_next", "_ring", "_size")

    def __init__(self, size: int) -> None:
        self._ring = array("f")
        self._size = size
        self._next = 0

    def append(self, value: float) -> None:
        """Add a number; the oldest is forgotten if there is no room."""
        if len(self._ring) < self._size:
            self._ring.append(value)
            return
        self._ring[self._next] = value
        self._next = (self._next + 1) % self._size

    def values(self) -> list[float | None]:
        """Return them, rounded; None for what was missing."""
        ordered = self._ring[self._next :] + self._ring[: self._next]
        return [None if math.isnan(each) else round(each, 3) for each in ordered]


class _Entry:
    """What is known of one policy."""

    __slots__ = (
        "bad",
        "counts",
        "durations",
        "figures",
        "id",
        "kind",
        "name",
        "rated_at",
        "rated_from",
        "reader",
        "ref",
        "series",
        "stale",
        "version",
    )

    def __init__(self, number: int, policy: Any, history: int, forget: Callable[[int], None]) -> None:
        self.id = number
        self.ref = weakref.ref(policy, lambda _: forget(number))
        self.name = _name_of(policy)
        self.kind, self.reader, drawn = self._look(policy)
        self.figures: Figures = {}
        self.series = {name: Series(history) for name in drawn}
        self.counts: dict[str, int] = {}
        self.durations: deque[float] = deque(maxlen=MAX_DURATIONS)
        self.stale = False  # whether durations came since the percentiles were computed
        self.bad = 0
        self.rated_at = -math.inf
        self.rated_from: tuple[float, float] = (0.0, 0.0)
        self.version = 0

    def _look(self, policy: Any) -> tuple[str, Reader, tuple[str, ...]]:
        try:
            return describe(policy.statistics())
        except Exception:
            return describe(None)

    def read(self) -> Figures | None:
        """Pull the statistics; None if the policy is gone."""
        policy = self.ref()
        if policy is None:
            return None
        try:
            figures = self.reader(policy.statistics(), policy)
        except Exception as exc:
            figures = {"told": f"statistics() raised {safe_error(exc)}"}
        finally:
            del policy
        figures["counts"] = dict(self.counts)
        return figures

    def add_rates(self, figures: Figures, now: float, round_ends: bool) -> None:
        """Add what grows to the figures, as of the last whole round."""
        for name in ("rate", "bad_rate", "p50", "p99"):
            if name in self.figures:
                figures[name] = self.figures[name]
        growing = _RATED.get(self.kind)
        if not round_ends or growing is None:
            return
        total = float(figures[growing]) if growing in figures else float(self.counts.get(growing, 0))
        passed = now - self.rated_at
        before, bad_before = self.rated_from
        if passed > 0:
            known = passed < math.inf
            figures["rate"] = round(max(0.0, total - before) / passed, 1) if known else 0.0
            if self.kind == "pipeline":
                figures["bad_rate"] = round((self.bad - bad_before) / passed, 1) if known else 0.0
            self.rated_at, self.rated_from = now, (total, self.bad)
        if self.stale:
            self.stale = False
            ordered = sorted(self.durations)
            figures["p50"] = plain(_quantile(ordered, 0.5))
            figures["p99"] = plain(_quantile(ordered, 0.99))


class Pulse:
    """An instrument that keeps what the live page shows.

    Args:
      clock (() -> float, seconds): Trio's clock of the run.
      wall (() -> float, seconds): the time of day, since the epoch.
      history (int, seconds): how far back figures are kept.
      max_policies (int): so many are shown; others are counted.
      max_events (int): so many lines of the log are kept.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        history: int,
        max_policies: int = MAX_POLICIES,
        max_events: int = MAX_EVENTS,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self.history = history
        """How far back figures are kept, in seconds."""
        self._max_policies = max_policies
        self._entries: dict[int, _Entry] = {}
        self._by_identity: dict[int, _Entry] = {}
        self._gone: deque[int] = deque()  # filled by the garbage collector, in whichever thread it runs
        self._numbers = itertools.count(1)
        self._versions = itertools.count(1)
        self._lines: deque[dict[str, Any]] = deque(maxlen=max_events)
        self._unsent: deque[dict[str, Any]] = deque(maxlen=max_events)
        self._urgent: set[int] = set()
        self._second = -1
        self._listed = 0
        self._listed_transitions = 0
        self._same: Counter[tuple[int, str]] = Counter()
        self._line_numbers = itertools.count(1)
        self._totals: Counter[str] = Counter()
        self._totals_at = clock()
        self._totals_from: Counter[str] = Counter()
        self._total_series = {name: Series(history) for name in (*TOTALS, "events")}
        self.wake: Callable[[], object] = lambda: None
        """Called when something has happened that should be shown at once."""
        self.events = 0
        """Events heard, in all."""
        self.unlisted = 0
        """How many of them have no line, because there were too many."""
        self.left_out = 0
        """How often something came from a policy beyond `max_policies`."""

    # -- hearing ---------------------------------------------------------------------------------------------------------

    def record(self, event: _events.Event) -> None:
        """Take note of an event."""
        entry = self._entry_of(event.policy)
        kind = type(event)
        if kind is _events.PolicySeen:
            return
        self.events += 1
        self._totals[kind.__name__] += 1
        if entry is not None:
            entry.counts[kind.__name__] = entry.counts.get(kind.__name__, 0) + 1
        if isinstance(event, _events.CallFinished):
            if entry is not None:
                entry.durations.append(event.seconds)
                entry.stale = True
                entry.bad += event.outcome in _BAD
            if event.outcome in _QUIET:
                return
        is_transition = kind in _TRANSITIONS
        if is_transition and entry is not None:
            self._urgent.add(entry.id)
        if self._has_room(is_transition, entry, kind.__name__):
            self._write(event, entry, is_transition)
        else:
            self.unlisted += 1

    def _has_room(self, is_transition: bool, entry: _Entry | None, kind: str) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._listed, self._listed_transitions = second, 0, 0
            self._same.clear()
        if is_transition:
            self._listed_transitions += 1
            return self._listed_transitions <= MAX_TRANSITIONS
        if self._listed >= MAX_LINES:
            return False
        same = (0 if entry is None else entry.id, kind)
        self._same[same] += 1
        if self._same[same] > MAX_SAME:
            return False
        self._listed += 1
        return True

    def _write(self, event: _events.Event, entry: _Entry | None, is_transition: bool) -> None:
        try:
            level, text = line_of(event)
        except Exception as exc:  # an event of the user's own, or one with something strange in it
            level, text = "info", f"{type(event).__name__}, which can't be shown: {safe_error(exc)}"
        line = {
            "n": next(self._line_numbers),
            "at": round(self._wall(), 3),
            "event": type(event).__name__,
            "id": None if entry is None else entry.id,
            "name": _name_of(event.policy) if entry is None else entry.name,
            "level": level,
            "text": text,
        }
        self._lines.append(line)
        self._unsent.append(line)
        if is_transition:
            self.wake()

    def add(self, policy: Any) -> None:
        """Show a policy that has not been heard of."""
        self._entry_of(policy)

    def _entry_of(self, policy: Any) -> _Entry | None:
        entry = self._by_identity.get(id(policy))
        if entry is not None and entry.ref() is policy:
            return entry
        if len(self._entries) >= self._max_policies:
            self._forget_gone()
            if len(self._entries) >= self._max_policies:
                self.left_out += 1
                return None
        entry = _Entry(next(self._numbers), policy, self.history, self._gone.append)
        self._entries[entry.id] = self._by_identity[id(policy)] = entry
        self._urgent.add(entry.id)
        return entry

    # -- telling ---------------------------------------------------------------------------------------------------------

    def ids(self) -> list[int]:
        """Return the numbers of all policies that are shown, in the order in which they were met."""
        return list(self._entries)

    def policy(self, number: int) -> Any:
        """Return the policy with this number; None if there is none."""
        entry = self._entries.get(number)
        return None if entry is None else entry.ref()

    def sample(self, ids: Iterable[int], *, round_ends: bool = True) -> list[dict[str, Any]]:
        """Pull the statistics of these policies; return what has changed.

        Args:
          ids (iterable of int): which.
          round_ends (bool): whether a second is over: then the series get a number each, and rates are computed.
        """
        now = self._clock()
        entries = (self._entries.get(number) for number in ids)
        return [change for entry in entries if entry is not None if (change := self._sample(entry, now, round_ends))]

    def _sample(self, entry: _Entry, now: float, round_ends: bool) -> dict[str, Any] | None:
        figures = entry.read()
        if figures is None:
            return None
        entry.add_rates(figures, now, round_ends)
        before, entry.figures = entry.figures, figures
        if round_ends:
            for name, series in entry.series.items():
                value = figures.get(name)
                series.append(value if isinstance(value, (int, float)) else math.nan)
        if figures == before:
            return None
        is_new, entry.version = entry.version == 0, next(self._versions)
        changed = {name: value for name, value in figures.items() if is_new or before.get(name, entry) != value}
        changed |= dict.fromkeys(before.keys() - figures.keys())
        change = {"id": entry.id, "v": entry.version, "f": changed}
        return change | {"kind": entry.kind, "name": entry.name, "s": list(entry.series)} if is_new else change

    def end_round(self) -> dict[str, Any]:
        """Add the totals of a second to their series; return them, with who is gone."""
        now = self._clock()
        passed = max(now - self._totals_at, 1e-9)
        before, self._totals_from = self._totals_from, Counter({**self._totals, "events": self.events})
        self._totals_at = now
        rates = {name: (self._totals_from[kind] - before[kind]) / passed for name, kind in _total_kinds()}
        for name, rate in rates.items():
            self._total_series[name].append(rate)
        found = {"rates": {name: round(rate, 1) for name, rate in rates.items()}, "gone": self._forget_gone()}
        return found | {"now": round(now, 3), **self._counted()}

    def _counted(self) -> dict[str, Any]:
        return {"events": self.events, "unlisted": self.unlisted, "left_out": self.left_out}

    def take_lines(self) -> list[dict[str, Any]]:
        """Return the lines that have come since the last call."""
        lines = list(self._unsent)
        self._unsent.clear()
        return lines

    def take_urgent(self) -> list[int]:
        """Return whose state has changed since the last call, or who is new."""
        urgent = sorted(self._urgent)
        self._urgent.clear()
        return urgent

    def whole(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """Return all that is known of these policies, their series included, as of when they were last sampled."""
        entries = (self._entries.get(number) for number in ids)
        return [
            {
                "id": entry.id,
                "v": entry.version,
                "kind": entry.kind,
                "name": entry.name,
                "f": entry.figures,
                "s": {name: series.values() for name, series in entry.series.items()},
            }
            for entry in entries
            if entry is not None and entry.version
        ]

    def summary(self, lines: int) -> dict[str, Any]:
        """Return the totals with their series, and the last lines of the log."""
        shown = list(itertools.islice(self._lines, max(0, len(self._lines) - lines), None))
        series = {name: each.values() for name, each in self._total_series.items()}
        return {"lines": shown, "series": series, "now": round(self._clock(), 3), **self._counted()}

    def _forget_gone(self) -> list[int]:
        gone = []
        while self._gone:
            number = self._gone.popleft()
            entry = self._entries.pop(number, None)
            if entry is not None:
                gone.append(number)
        if gone:
            self._by_identity = {key: each for key, each in self._by_identity.items() if each.id in self._entries}
        return gone


def _total_kinds() -> list[tuple[str, str]]:
    return [*TOTALS.items(), ("events", "events")]


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def _name_of(policy: Any) -> str:
    try:
        return one_line(str(policy.name))
    except Exception:
        return type(policy).__name__
