"""When a circuit opens: rules as values, and the counters that they give to each breaker.

The law:

- A rule is a frozen value without state, so that one rule may configure many breakers. `counter()` gives the state, and
  each breaker has its own.
- A counter is asked after each completed call, and answers: trip now? A success can trip too, because it can be slow,
  or the call that makes the minimum complete. What is cancelled is no call and is never recorded.
- A ratio trips *at* the ratio, and only over at least `min_calls` calls. It is compared as failed / calls: the division
  gives the same float that the written fraction is, where ratio * calls may land on either side (0.29 * 100 < 29).
- `a | b` feeds both counters with every call, also when the first has tripped already; it trips if any of them does.
- `uses_clock = False` promises that the counters look at neither `now` nor `duration`. The breaker then reads no clock
  while its circuit is closed.

Rejected: a rule as a plain function of totals (each needs a different memory), and ratios without a minimum (the first
failure of the day is 100 %).

Source: count-based and time-based windows and the slow-call rule of resilience4j; failure ratios of Polly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import attrs

from .. import _checks
from .windows import CountWindow, TimeWindow


@attrs.frozen
class TripGauge:
    """How near a circuit is to opening, by one rule: a number, and the limit at which it opens."""

    what: str
    """What the number is, such as "failure ratio"."""
    value: float
    """The number now."""
    limit: float
    """The circuit opens when the number is that high."""
    calls: int | None = None
    """How many calls it was made from; None where that doesn't matter."""
    min_calls: int | None = None
    """With fewer calls than that the circuit stays as it is."""


class TripCounter(ABC):
    """What a trip rule remembers about one circuit. Every method is synchronous and quick."""

    __slots__ = ()

    @abstractmethod
    def record(self, now: float, failed: bool, duration: float) -> bool:
        """Count a completed call and say whether the circuit should open now.

        Args:
          now (float): the present instant, on the clock of the breaker.
          failed (bool): the verdict on the call.
          duration (float, seconds, >= 0): how long it took.
        """

    @abstractmethod
    def clear(self) -> None:
        """Forget every call. The breaker does this at each change of state."""

    def shift(self, seconds: float) -> None:  # noqa: B027  # most counters keep no instant, so doing nothing is right
        """Add so many seconds to each instant that is kept. Does nothing unless overridden."""

    def describe(self) -> str:
        """Return how near the circuit is to opening, such as "3/5 consecutive failures". Empty unless overridden."""
        return ""

    def gauges(self) -> tuple[TripGauge, ...]:
        """Return the same as numbers, one gauge for each rule. Empty unless overridden."""
        return ()


class TripRule(ABC):
    """A rule that says when a circuit opens. Rules combine: `a | b` opens when either says so.

    For a rule of your own, subclass this as a frozen value and give `counter()`.

    Synopsis::

        @attrs.frozen
        class AnyFailure(trioresil.abc.TripRule):
            uses_clock = False

            def counter(self):
                return AnyFailureCounter()

        breaker = trioresil.CircuitBreaker(trip=AnyFailure() | trioresil.SlowRatio(0.5))
    """

    __slots__ = ()

    uses_clock: ClassVar[bool] = True
    """Whether the counters look at `now` or `duration`. False lets the breaker do without reading a clock."""

    @abstractmethod
    def counter(self) -> TripCounter:
        """Return a fresh counter, for one circuit."""

    def __or__(self, other: TripRule) -> TripRule:
        if not isinstance(other, TripRule):
            return NotImplemented
        return AnyOf((*_parts(self), *_parts(other)))


def _parts(rule: TripRule) -> tuple[TripRule, ...]:
    return rule.rules if isinstance(rule, AnyOf) else (rule,)


@attrs.frozen
class AnyOf(TripRule):
    """Opens when any of its rules says so. Written `a | b`."""

    rules: tuple[TripRule, ...]

    @property
    def uses_clock(self) -> bool:  # type: ignore[override]  # a constant of each rule, but here it depends on the parts
        """Whether any of the rules does."""
        return any(rule.uses_clock for rule in self.rules)

    def counter(self) -> TripCounter:
        """Return a counter that feeds those of all rules."""
        return _AnyCounter([rule.counter() for rule in self.rules])

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.rules))


class _AnyCounter(TripCounter):
    __slots__ = ("_counters",)

    def __init__(self, counters: list[TripCounter]) -> None:
        self._counters = counters

    def record(self, now: float, failed: bool, duration: float) -> bool:
        trip = False
        for counter in self._counters:
            if counter.record(now, failed, duration):
                trip = True
        return trip

    def clear(self) -> None:
        for counter in self._counters:
            counter.clear()

    def shift(self, seconds: float) -> None:
        for counter in self._counters:
            counter.shift(seconds)

    def describe(self) -> str:
        return ", ".join(filter(None, (counter.describe() for counter in self._counters)))

    def gauges(self) -> tuple[TripGauge, ...]:
        return tuple(gauge for counter in self._counters for gauge in counter.gauges())


def _check_whole(rule: object, field: attrs.Attribute[int], value: int) -> None:
    _checks.whole(field.name, value)


def _check_ratio(rule: object, field: attrs.Attribute[float], value: float) -> None:
    _checks.ratio(field.name, value)


def _check_seconds(rule: object, field: attrs.Attribute[float], value: float) -> None:
    _checks.seconds(field.name, value, zero=False, finite=True)


@attrs.frozen
class ConsecutiveFailures(TripRule):
    """Opens after n failures in a row; a single success starts the count anew.

    The simplest rule, and the cheapest: it needs neither a clock nor a memory. Under much traffic a service that fails
    half of its calls seldom fails n in a row, so prefer `FailureRatio` there.

    Synopsis::

        breaker = trioresil.CircuitBreaker(trip=trioresil.ConsecutiveFailures(5))

    Args:
      n (int, >= 1): how many failures in a row.
    """

    uses_clock = False

    n: int = attrs.field(validator=_check_whole)

    def counter(self) -> TripCounter:
        """Return a fresh counter, for one circuit."""
        return _ConsecutiveCounter(self.n)


class _ConsecutiveCounter(TripCounter):
    __slots__ = ("_failures", "_n")

    def __init__(self, n: int) -> None:
        self._n = n
        self._failures = 0

    def record(self, now: float, failed: bool, duration: float) -> bool:
        if not failed:
            self._failures = 0
            return False
        self._failures += 1
        return self._failures >= self._n

    def clear(self) -> None:
        self._failures = 0

    def describe(self) -> str:
        return f"{self._failures}/{self._n} consecutive failures"

    def gauges(self) -> tuple[TripGauge, ...]:
        return (TripGauge("consecutive failures", self._failures, self._n),)


@attrs.frozen
class FailuresOf(TripRule):
    """Opens when k of the last n calls have failed, however long ago they were.

    It may open before n calls were seen: k failures are enough. For traffic so thin that a window in seconds would be
    empty most of the time; a failure may count for hours there, and if that is wrong, use `FailureRatio`.

    Synopsis::

        breaker = trioresil.CircuitBreaker(trip=trioresil.FailuresOf(3, of=10))

    Args:
      k (int, >= 1): how many failures.
      of (int, >= k): among how many of the last calls.
    """

    uses_clock = False

    k: int = attrs.field(validator=_check_whole)
    of: int = attrs.field(kw_only=True)

    @of.validator
    def _check_of(self, field: attrs.Attribute[int], value: int) -> None:
        _checks.whole(field.name, value, least=self.k)

    def counter(self) -> TripCounter:
        """Return a fresh counter, for one circuit."""
        return _FailuresOfCounter(self.k, self.of)


class _FailuresOfCounter(TripCounter):
    __slots__ = ("_k", "_last")

    def __init__(self, k: int, of: int) -> None:
        self._k = k
        self._last = CountWindow(of)

    def record(self, now: float, failed: bool, duration: float) -> bool:
        self._last.record(failed)
        return self._last.failed >= self._k

    def clear(self) -> None:
        self._last.clear()

    def describe(self) -> str:
        return f"{self._last.failed}/{self._k} failures in the last {self._last.calls} of {self._last.size} calls"

    def gauges(self) -> tuple[TripGauge, ...]:
        return (TripGauge(f"failures in the last {self._last.size} calls", self._last.failed, self._k),)


@attrs.frozen
class FailureRatio(TripRule):
    """Opens when a share of the calls of the last seconds has failed.

    The rule for steady traffic: it sees a service that fails half of the time, and isn't impressed by one bad second
    out of thirty. Calls are forgotten a tenth of the window at a time.

    Synopsis::

        breaker = trioresil.CircuitBreaker(trip=trioresil.FailureRatio(0.5, window=30))

    Args:
      ratio (float, > 0, <= 1): the share of failures at which the circuit opens.
      window (float, seconds, > 0, finite): how far back calls count. Default: 30.
      min_calls (int, >= 1): with fewer calls than that in the window, the circuit stays as it is. Default: 20.
    """

    ratio: float = attrs.field(validator=_check_ratio)
    window: float = attrs.field(default=30.0, kw_only=True, validator=_check_seconds)
    min_calls: int = attrs.field(default=20, kw_only=True, validator=_check_whole)

    def counter(self) -> TripCounter:
        """Return a fresh counter, for one circuit."""
        return _FailureRatioCounter(self.ratio, self.window, self.min_calls)


class _RatioCounter(TripCounter):
    """A time window in which the bad calls are counted as failed, whatever bad means."""

    __slots__ = ("_min_calls", "_ratio", "_recent")

    kind: ClassVar[str]

    def __init__(self, ratio: float, window: float, min_calls: int) -> None:
        self._ratio = ratio
        self._min_calls = min_calls
        self._recent = TimeWindow(window)

    def _count(self, now: float, bad: bool) -> bool:
        recent = self._recent
        recent.record(now, bad)
        calls = recent.calls
        return calls >= self._min_calls and recent.failed / calls >= self._ratio

    def clear(self) -> None:
        self._recent.clear()

    def shift(self, seconds: float) -> None:
        self._recent.shift(seconds)

    def describe(self) -> str:
        calls = self._recent.calls
        needed = f" of {self._min_calls}" if calls < self._min_calls else ""
        return f"{self.kind} ratio {self._share():.3g} of {self._ratio:g} over {calls}{needed} calls"

    def gauges(self) -> tuple[TripGauge, ...]:
        return (TripGauge(f"{self.kind} ratio", self._share(), self._ratio, self._recent.calls, self._min_calls),)

    def _share(self) -> float:
        calls = self._recent.calls
        return self._recent.failed / calls if calls else 0.0


class _FailureRatioCounter(_RatioCounter):
    __slots__ = ()

    kind = "failure"

    def record(self, now: float, failed: bool, duration: float) -> bool:
        return self._count(now, failed)


@attrs.frozen
class SlowRatio(TripRule):
    """Opens when a share of the calls of the last seconds was slow, whether they failed or not.

    A service in trouble is often slow before it fails, and slow calls hold more of the caller's resources than errors
    do. A call that failed quickly doesn't count as slow: combine the rules, `FailureRatio(0.5) | SlowRatio(0.5)`.

    Synopsis::

        breaker = trioresil.CircuitBreaker(trip=trioresil.SlowRatio(0.5, slower_than=2))

    Args:
      ratio (float, > 0, <= 1): the share of slow calls at which the circuit opens.
      slower_than (float, seconds, > 0, finite): a call that takes longer than that is slow. Default: 2.
      window (float, seconds, > 0, finite): how far back calls count. Default: 30.
      min_calls (int, >= 1): with fewer calls than that in the window, the circuit stays as it is. Default: 20.
    """

    ratio: float = attrs.field(validator=_check_ratio)
    slower_than: float = attrs.field(default=2.0, kw_only=True, validator=_check_seconds)
    window: float = attrs.field(default=30.0, kw_only=True, validator=_check_seconds)
    min_calls: int = attrs.field(default=20, kw_only=True, validator=_check_whole)

    def counter(self) -> TripCounter:
        """Return a fresh counter, for one circuit."""
        return _SlowRatioCounter(self.ratio, self.window, self.min_calls, self.slower_than)


class _SlowRatioCounter(_RatioCounter):
    __slots__ = ("_slower_than",)

    kind = "slow"

    def __init__(self, ratio: float, window: float, min_calls: int, slower_than: float) -> None:
        super().__init__(ratio, window, min_calls)
        self._slower_than = slower_than

    def record(self, now: float, failed: bool, duration: float) -> bool:
        return self._count(now, duration > self._slower_than)
