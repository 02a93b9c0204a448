"""An exact model of a circuit that keeps the whole history and answers every question by searching it.

It shares no line with the circuit: no table, no generation numbers, no set of probes. Times are powers of two or sums of few of
them, so that floats are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from trioresil._kernel.trip_rules import TripCounter


@attrs.define(eq=False)
class Epoch:
    """A stretch of time between two transitions."""

    kind: str
    until: float = 0.0
    verdicts: list[tuple[bool, float]] = attrs.Factory(list)
    successes: int = 0


@attrs.define(eq=False)
class Visit:
    """One call that was let in."""

    epoch: Epoch
    at: float
    done: bool = False


class Model:
    """Trips at `failures` failures of one epoch, or at a call that took `slow` seconds or longer."""

    def __init__(
        self,
        *,
        open_times: Sequence[float],
        probes: int = 1,
        needed: int = 1,
        lease: float = 64.0,
        failures: int = 2,
        slow: float = math.inf,
    ) -> None:
        self.open_times = list(open_times)
        self.probes, self.needed, self.lease = probes, needed, lease
        self.failures, self.slow = failures, slow
        self.epochs = [Epoch("closed")]
        self.visits: list[Visit] = []
        self.transitions: list[tuple[str, str, str]] = []
        self.level = 0
        self.last_open_time = 0.0
        self.closed_at = 0.0
        self.isolations = 0

    @property
    def now_in(self) -> Epoch:
        return self.epochs[-1]

    def begin(self, why: str, epoch: Epoch) -> None:
        self.transitions.append((self.now_in.kind, why, epoch.kind))
        self.epochs.append(epoch)

    def state(self, now: float) -> str:
        if self.isolations:
            return "isolated"
        return "half-open" if self.now_in.kind == "open" and now >= self.now_in.until else self.now_in.kind

    def holders(self, now: float) -> list[Visit]:
        """Who holds a slot: visits of this half-open epoch that are neither done nor older than the lease."""
        if self.now_in.kind != "half-open":
            return []
        return [v for v in self.visits if v.epoch is self.now_in and not v.done and now < v.at + self.lease]

    def would_admit(self, now: float) -> bool:
        state = self.state(now)
        return state == "closed" or (state == "half-open" and len(self.holders(now)) < self.probes)

    def admittable_at(self, now: float) -> float:
        """The first instant, of all at which anything can change by itself, at which a call would be let in."""
        instants = {now, self.now_in.until, *(v.at + self.lease for v in self.visits)}
        return min((at for at in instants if at >= now and self.would_admit(at)), default=math.inf)

    def admit(self, now: float) -> Visit | tuple[str, float | None]:
        state = self.state(now)
        if state == "half-open" and self.now_in.kind == "open":
            self.begin("time over", Epoch("half-open"))
        if not self.would_admit(now):
            return state, self.now_in.until - now if state == "open" else None
        self.visits.append(Visit(self.now_in, now))
        return self.visits[-1]

    def report(self, visit: Visit, now: float, failed: bool | None) -> None:
        stale = visit.epoch is not self.now_in
        late = self.now_in.kind == "half-open" and visit not in self.holders(now)
        visit.done = True
        if failed is None or stale or late:
            return
        if self.now_in.kind == "closed":
            self.now_in.verdicts.append((failed, now - visit.at))
            bad = sum(each for each, _ in self.now_in.verdicts)
            if bad >= self.failures or now - visit.at >= self.slow:
                self.trip(now)
        elif failed:
            self.level += 1
            self.open_now(now, "probe failed")
        else:
            self.now_in.successes += 1
            if self.now_in.successes >= self.needed:
                self.closed_at = now
                self.begin("probes passed", Epoch("closed"))

    def trip(self, now: float) -> None:
        healthy = now - self.closed_at
        while self.level and healthy >= self.last_open_time:
            healthy -= self.last_open_time
            self.level -= 1
        self.open_now(now, "tripped")

    def open_now(self, now: float, why: str) -> None:
        self.level = min(self.level, len(self.open_times) - 1)
        self.last_open_time = self.open_times[self.level]
        self.begin(why, Epoch("open", until=now + self.last_open_time))

    def open(self, now: float, seconds: float) -> None:
        if self.now_in.kind != "open" or now + seconds > self.now_in.until:
            self.begin("opened", Epoch("open", until=now + seconds))

    def reset(self, now: float) -> None:
        self.level, self.last_open_time, self.closed_at = 0, 0.0, now
        self.begin("reset", Epoch("closed"))

    def meet_another_run(self, seconds: float) -> None:
        """Move to a clock that is ahead by so much; what was inside as a probe is gone."""
        self.closed_at += seconds
        for epoch in self.epochs:
            epoch.until += seconds
        for visit in self.visits:
            visit.done = visit.done or visit.epoch.kind == "half-open"

    def remaining(self, now: float) -> float:
        return max(0.0, self.now_in.until - now) if self.now_in.kind == "open" else 0.0


class ModelCounter(TripCounter):
    """The model's rule as a counter of the kernel's; keeps what it was told."""

    def __init__(self, failures: int = 2, slow: float = math.inf) -> None:
        self.failures, self.slow = failures, slow
        self.seen: list[tuple[float, bool, float]] = []
        self.failed = 0
        self.clears = 0
        self.shifted = 0.0

    def record(self, now: float, failed: bool, duration: float) -> bool:
        self.seen.append((now, failed, duration))
        self.failed += failed
        return self.failed >= self.failures or duration >= self.slow

    def clear(self) -> None:
        self.failed = 0
        self.clears += 1

    def shift(self, seconds: float) -> None:
        self.shifted += seconds
