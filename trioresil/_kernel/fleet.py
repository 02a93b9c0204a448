"""One circuit for many processes: what the server knows of it, and what it does with their reports.

The law is that of `circuit`, seen from the server:

- Every transition begins a new *epoch*, whose number is larger than each one before, also after the state was lost: it is no
  smaller than the server's time in microseconds. What is reported from another epoch than the present one is dropped.
- Outcomes come in batches, as runs of like ones: for each rule whether they were bad, and how many. A rule is asked wherever it
  could say yes, so a batch trips if its calls, one by one, would have.
- At most `probes` ids are out in HALF_OPEN, in the whole fleet, each for as long as its lease.
- A clock that is set back takes all instants along: nothing is open an hour longer for it.

A window in seconds is kept in slices on the grid of the server's clock, as many as TimeWindow has, forgotten one at a time.

Sources: see `circuit`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeAlias

import attrs

SLICES: Final = 10
CLOSED: Final = "closed"
OPEN: Final = "open"
HALF_OPEN: Final = "half-open"

Kind: TypeAlias = Literal["row", "of", "ratio"]
Counter: TypeAlias = int | str | dict[int, tuple[int, int]]


@attrs.frozen
class SharedRule:
    """A trip rule as the server is told it."""

    kind: Kind
    """Bad ones in a row; bad ones of the last; or a ratio of the last microseconds."""
    limit: float
    """How many, or which ratio."""
    size: int
    """Of how many; of a ratio, the microseconds."""
    least: int
    """Of a ratio, the least calls."""

    @property
    def width(self) -> int:
        """The microseconds of a slice."""
        return max(1, self.size // SLICES)

    def empty(self) -> Counter:
        """Return a counter that has seen nothing."""
        return 0 if self.kind == "row" else "" if self.kind == "of" else {}

    def count(self, counter: Counter, now: int, bad: bool, n: int) -> tuple[Counter, bool]:
        """Count a run of like outcomes; return the new counter, and whether the rule would have tripped in it."""
        if isinstance(counter, int):
            counter = counter + n if bad else 0
            return counter, counter >= self.limit
        if isinstance(counter, str):
            counter = (counter + ("1" if bad else "0") * min(n, self.size))[-self.size :]
            return counter, counter.count("1") >= self.limit
        slot = now // self.width
        counter = {at: each for at, each in counter.items() if at > slot - SLICES}
        calls = sum(each[0] for each in counter.values())
        failed = sum(each[1] for each in counter.values())
        mine = counter.get(slot, (0, 0))
        counter[slot] = mine[0] + n, mine[1] + (n if bad else 0)
        # Good calls lower the ratio; but one of them may be the first to complete the least number.
        asked_after = n if bad else max(1, self.least - calls)
        if asked_after > n or calls + asked_after < self.least:
            return counter, False
        return counter, (failed + (n if bad else 0)) / (calls + asked_after) >= self.limit


@attrs.frozen
class FleetRules:
    """How a fleet's circuit is configured; the same in each process."""

    probes: int
    needed: int
    probe_lease: int
    """Microseconds."""
    open_times: Sequence[int]
    """Microseconds, for each level."""
    rules: Sequence[SharedRule]


@attrs.define
class Fleet:
    """The state of one circuit. Instants are whole microseconds of the server's clock."""

    counters: list[Counter]
    seen: int = 0
    epoch: int = 0
    version: int = 0
    """Grows with each change within an epoch, so that who hears of two knows which was later."""
    state: str = CLOSED
    open_until: int = 0
    open_for: int = 0
    level: int = 0
    closed_at: int = 0
    successes: int = 0
    by_hand: bool = False
    probes: dict[str, int] = attrs.Factory(dict)
    changed: bool = False
    """Whether others have to be told."""

    @classmethod
    def begin(cls, config: FleetRules, now: int) -> Fleet:
        """Return the state of a circuit that nobody has used yet."""
        return cls([rule.empty() for rule in config.rules], seen=now, epoch=now, closed_at=now)

    def look(self, config: FleetRules, now: int) -> None:
        """Take the present time; drop probes whose leases have ended."""
        if now < self.seen:
            back = self.seen - now
            self.open_until -= back
            self.closed_at -= back
            self.probes = {who: expiry - back for who, expiry in self.probes.items()}
            for number, rule in enumerate(config.rules):
                counter = self.counters[number]
                if isinstance(counter, dict):
                    slots = self.seen // rule.width - now // rule.width
                    self.counters[number] = {at - slots: each for at, each in counter.items()}
        self.seen = now
        for who in [who for who, expiry in self.probes.items() if expiry <= now]:
            del self.probes[who]
            self.version += 1

    def report(self, config: FleetRules, epoch: int, runs: Iterable[tuple[int, int]]) -> None:
        """Count outcomes: runs of a bit for each rule, and how many."""
        if epoch != self.epoch or self.state != CLOSED:
            return
        for bits, n in runs:
            tripped = False
            for number, rule in enumerate(config.rules):
                bad = bool(bits >> number & 1)
                self.counters[number], trips = rule.count(self.counters[number], self.seen, bad, n)
                tripped = tripped or trips
            if tripped:
                healthy = (self.seen - self.closed_at) // self.open_for if self.open_for else self.level
                self.level = max(0, self.level - healthy)
                self._open(config)
                return

    def admit(self, config: FleetRules, who: str) -> bool:
        """Let a probe in, if one may."""
        if self.state == OPEN and self.seen >= self.open_until:
            self._go(config, HALF_OPEN)
        if self.state != HALF_OPEN or len(self.probes) >= config.probes:
            return False
        self.probes[who] = self.seen + config.probe_lease
        self.version += 1
        return True

    def judge(self, config: FleetRules, who: str, failed: bool | None) -> None:
        """Take a probe's verdict; None: none, and its slot is free."""
        if self.probes.pop(who, None) is None:
            return
        if failed:
            self.level += 1
            self._open(config)
            return
        self.version += 1
        self.changed = True  # a slot came back
        if failed is None:
            return
        self.successes += 1
        if self.successes >= config.needed:
            self.closed_at = self.seen
            self._go(config, CLOSED)

    def open_by_hand(self, config: FleetRules, duration: int) -> None:
        """Open for so long, unless it is open for as long anyway."""
        until = self.seen + duration
        if self.state == OPEN and until <= self.open_until:
            return
        self.open_until = until
        self._go(config, OPEN, by_hand=True)

    def reset(self, config: FleetRules) -> None:
        """Close and forget everything."""
        self.level = self.open_for = 0
        self.closed_at = self.seen
        self._go(config, CLOSED, by_hand=True)

    def remaining(self, config: FleetRules) -> int:
        """Return how many microseconds from now on a call may be let in, as things stand."""
        if self.state == OPEN:
            return max(0, self.open_until - self.seen)
        if self.state == HALF_OPEN and len(self.probes) >= config.probes:
            return min(self.probes.values()) - self.seen
        return 0

    def _open(self, config: FleetRules) -> None:
        self.level = min(self.level, len(config.open_times) - 1)
        self.open_for = config.open_times[self.level]
        self.open_until = self.seen + self.open_for
        self._go(config, OPEN)

    def _go(self, config: FleetRules, state: str, *, by_hand: bool = False) -> None:
        self.state = state
        self.by_hand = by_hand
        self.epoch = max(self.epoch + 1, self.seen)
        self.version += 1
        self.counters = [rule.empty() for rule in config.rules]
        self.probes = {}
        self.successes = 0
        self.changed = True
