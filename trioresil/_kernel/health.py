"""Health: what a row of check results says about the thing that is checked.

The law of this file:

1. A result is quick, slow or failed. Quick and slow ones have passed.
2. TRANSITIONS is the whole machine. A signal that has no entry for the current state changes nothing.
3. A state is left only for a row of results that agree: `rise` that passed or `fall` that failed, out of UNKNOWN as out of any
   other state. Between HEALTHY and DEGRADED, which are both healthy, a row of `fall` slow or `rise` quick ones decides.
4. Of an UNHEALTHY or UNKNOWN thing that has passed often enough, the last of these results says whether it is slow.
5. It is *unsure* while the latest row is shorter than its threshold, or speaks against the state: then it is looked at sooner.

Rejected: a score that decays, which answers neither "how many more?" nor "since when?"; and DEGRADED after one slow result, which
flaps wherever latency has a tail.

Source: `rise` and `fall` as in HAProxy and keepalived.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias


class HealthState(enum.Enum):
    """What is known about what is checked. HEALTHY and DEGRADED (it answers, slowly) count as healthy, the others don't."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"

    @property
    def is_healthy(self) -> bool:
        """Whether it counts as healthy."""
        return self in _GOOD


_GOOD: Final = frozenset({HealthState.HEALTHY, HealthState.DEGRADED})


class Result(enum.Enum):
    """How a check ended."""

    QUICK = "passed"
    SLOW = "passed, slowly"
    FAILED = "failed"


class Signal(enum.Enum):
    """What a row of results can say."""

    ROSE = "enough in a row passed, the last one quickly"
    ROSE_SLOWLY = "enough in a row passed, the last one slowly"
    SLOWED = "enough in a row were slow"
    QUICKENED = "enough in a row were quick"
    FELL = "enough in a row failed"


TRANSITIONS: Final[Mapping[tuple[HealthState, Signal], HealthState]] = {
    (HealthState.UNKNOWN, Signal.ROSE): HealthState.HEALTHY,
    (HealthState.UNKNOWN, Signal.ROSE_SLOWLY): HealthState.DEGRADED,
    (HealthState.UNKNOWN, Signal.FELL): HealthState.UNHEALTHY,
    (HealthState.HEALTHY, Signal.SLOWED): HealthState.DEGRADED,
    (HealthState.HEALTHY, Signal.FELL): HealthState.UNHEALTHY,
    (HealthState.DEGRADED, Signal.QUICKENED): HealthState.HEALTHY,
    (HealthState.DEGRADED, Signal.FELL): HealthState.UNHEALTHY,
    (HealthState.UNHEALTHY, Signal.ROSE): HealthState.HEALTHY,
    (HealthState.UNHEALTHY, Signal.ROSE_SLOWLY): HealthState.DEGRADED,
}


class Health:
    """The state of one thing that is checked.

    Args:
      rise (int >= 1): how many results in a row must pass.
      fall (int >= 1): how many in a row must fail.
    """

    __slots__ = ("_alike", "_fall", "_latest", "_rise", "consecutive", "state")

    def __init__(self, rise: int, fall: int) -> None:
        self._rise = rise
        self._fall = fall
        self._latest: Result | None = None
        self._alike = 0  # how many of the latest were quick, or slow, or failed
        self.state = HealthState.UNKNOWN
        self.consecutive = 0
        """How many results in a row ended alike: passed, or failed."""

    def record(self, result: Result) -> bool:
        """Take a result, and tell whether it has changed the state."""
        latest, self._latest = self._latest, result
        failed = result is Result.FAILED
        ends_alike = latest is not None and failed == (latest is Result.FAILED)
        self.consecutive = self.consecutive + 1 if ends_alike else 1
        self._alike = self._alike + 1 if result is latest else 1
        before = self.state
        for signal in self._signals(result):
            self.state = TRANSITIONS.get((before, signal), self.state)
        return self.state is not before

    def _signals(self, result: Result) -> Iterable[Signal]:
        if result is Result.FAILED:
            return [Signal.FELL] if self.consecutive >= self._fall else []
        is_slow = result is Result.SLOW
        signals = []
        if self.consecutive >= self._rise:
            signals.append(Signal.ROSE_SLOWLY if is_slow else Signal.ROSE)
        if self._alike >= (self._fall if is_slow else self._rise):
            signals.append(Signal.SLOWED if is_slow else Signal.QUICKENED)
        return signals

    @property
    def is_unsure(self) -> bool:
        """Whether the next results may be about to change the state."""
        if self._latest is Result.FAILED:
            return self.consecutive < self._fall
        speaks_against = _SPEAKS_FOR.get(self._latest) is not self.state
        return self.consecutive < self._rise or speaks_against


_SPEAKS_FOR: Final[Mapping[Result | None, HealthState]] = {
    Result.QUICK: HealthState.HEALTHY,
    Result.SLOW: HealthState.DEGRADED,
}


class Latencies:
    """The last so many latencies, and which of them a share of all did not exceed.

    Args:
      size (int >= 1): how many are kept.
    """

    __slots__ = ("_window",)

    def __init__(self, size: int) -> None:
        self._window: deque[float] = deque(maxlen=size)

    def record(self, seconds: float) -> None:
        self._window.append(seconds)

    @property
    def last(self) -> float | None:
        return self._window[-1] if self._window else None

    def quantiles(self, *shares: float) -> list[float | None]:
        """Return, for each share in (0, 1], the least latency that so great a share did not exceed; None if there is none."""
        ordered = sorted(self._window)
        return [ordered[math.ceil(share * len(ordered)) - 1] if ordered else None for share in shares]


Member: TypeAlias = tuple[str, bool, bool, str | None]


def what_lacks(members: Iterable[Member], need: Mapping[str, int]) -> list[str]:
    """Return what the whole lacks to be healthy, a phrase each; nothing if it is.

    Each critical member must be healthy, and in each group as many as it needs. If no member is critical and nothing is
    needed, every member must be healthy.

    Args:
      members (list of (name, healthy, critical, group)): what is checked.
      need (dict of group to int): how many of a group must be healthy.
    """
    known = list(members)
    all_count = not need and not any(critical for _, _, critical, _ in known)
    lacks = [f"{name} is not" for name, healthy, critical, _ in known if not healthy and (critical or all_count)]
    for group, least in need.items():
        found = [healthy for _, healthy, _, its_group in known if its_group == group]
        if sum(found) < least:
            lacks.append(f"of the group {group!r} {sum(found)} of {len(found)} are, and {least} must be")
    return lacks
