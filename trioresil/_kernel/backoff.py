"""How long to wait before the next attempt.

The law:

- A backoff is a frozen value; `delays(rng)` gives a fresh schedule, of which item k is the wait before retry k, from 0.
- Every delay is a finite number of seconds >= 0 and <= `max`, for every k: jitter is applied first and the bound last.
  Without a bound, delays grow up to the largest float and stay there; they never become infinite, NaN or negative.
- With e_k = min(max, initial * factor**k) and U uniform in [0, 1), drawn anew for each delay:

      "none"          e_k
      "full"          U * e_k
      "equal"         e_k/2 + U * e_k/2
      p               e_k * (1 - p + 2*p*U)
      "decorrelated"  d_k = initial + U * (3*d_(k-1) - initial), where d_(-1) = initial
      "smooth"        (n_k - n_(k-1)) / 1.4 * initial, where n_k = 2**t * tanh(sqrt(4*t)), t = k + U, n_(-1) = 0

- A schedule that ends goes on with its last delay (`endless`).
- `peak` is the index of the first delay that is as long as any later one. Chance is left out of it: it is the peak of
  e_k; "decorrelated" and "smooth", which have no e_k, take the delays for their mean and for U = 1/2.

Rejected: factor**k without a guard (it overflows at the 1024th attempt, which a loop that runs for a night reaches, and
an infinity less an infinity is NaN); jitter added after the bound; and a one-shot iterator as a backoff, which would
serve the first call only and leave the second without delays.

Source: "full", "equal" and "decorrelated" from Marc Brooker, "Exponential Backoff And Jitter" (2015); "smooth" is the
decorrelated jitter of Polly's second generation and of cockatiel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Set, Sized
from itertools import count, repeat
from typing import Final, Literal, Protocol, TypeAlias, get_args, runtime_checkable

import attrs

from .._checks import number
from .._checks import seconds as check_seconds

JitterName: TypeAlias = Literal["none", "full", "equal", "decorrelated", "smooth"]

LARGEST: Final = math.nextafter(math.inf, 0.0)


class Chance(Protocol):
    """A source of random numbers; random.Random is one."""

    def random(self) -> float:
        """Return a number in [0, 1)."""


@runtime_checkable
class Backoff(Protocol):
    """A schedule of delays between attempts: any object with this method.

    Its value may also have `jitter`: "none" says that the delays are meant exactly, so that nothing else is spread
    either. Without the attribute they count as jittered. And `peak`, a whole number: the index from which delays grow
    no more.
    """

    def delays(self, rng: Chance, /) -> Iterator[float]:
        """Return a fresh iterator over delays, in seconds, >= 0 and finite. If it ends, the last delay is repeated."""


@attrs.frozen
class Constant:
    """The same delay each time."""

    delay: float

    @property
    def jitter(self) -> str:
        """A constant delay is meant exactly."""
        return "none"

    @property
    def peak(self) -> int:
        """The first delay is as long as any other."""
        return 0

    def delays(self, rng: Chance, /) -> Iterator[float]:
        """Return the endless schedule."""
        return repeat(self.delay)

    def __repr__(self) -> str:
        return f"constant({_short(self.delay)})"


@attrs.frozen
class Linear:
    """Delays that grow by the same step each time."""

    initial: float
    step: float
    max: float

    @property
    def jitter(self) -> str:
        """A linear schedule is meant exactly."""
        return "none"

    @property
    def peak(self) -> int:
        """The first delay that reaches max."""
        return _first(self._delay, _bound(self.max)) if self.step else 0

    def delays(self, rng: Chance, /) -> Iterator[float]:
        """Return the endless schedule."""
        return map(self._delay, count())

    def _delay(self, k: int) -> float:
        bound = _bound(self.max)
        try:
            return min(bound, self.initial + k * self.step)
        except OverflowError:
            return bound

    def __repr__(self) -> str:
        return f"linear({_short(self.initial)}, {_short(self.step)}, max={_short(self.max)})"


@attrs.frozen
class Exponential:
    """Delays that grow by the same factor each time, or faster and slower by chance."""

    initial: float
    factor: float
    max: float
    jitter: JitterName | float

    @property
    def peak(self) -> int:
        """The first delay that reaches max, if chance is left out."""
        bound = _bound(self.max)
        if self.jitter == "decorrelated":
            return _first(lambda k: min(bound, self.initial * (2.0 * _power(1.5, k + 1) - 1.0)), bound)
        if self.jitter == "smooth":
            return _first(lambda k: _step(self.initial, _curve(k - 0.5) if k else 0.0, _curve(k + 0.5), bound), bound)
        return _first(self._plain, bound) if self.factor > 1 else 0

    def delays(self, rng: Chance, /) -> Iterator[float]:
        """Return an endless schedule that draws from rng as it goes."""
        if self.jitter == "decorrelated":
            return self._decorrelated(rng)
        if self.jitter == "smooth":
            return self._smooth(rng)
        return self._independent(rng)

    def _plain(self, k: int) -> float:
        return min(_bound(self.max), self.initial * _power(self.factor, k))

    def _independent(self, rng: Chance) -> Iterator[float]:
        bound = _bound(self.max)
        for k in count():  # pragma: no branch  # it never ends
            longest = self._plain(k)
            if self.jitter == "none":
                yield longest
            elif self.jitter == "full":
                yield rng.random() * longest
            elif self.jitter == "equal":
                yield longest / 2 + rng.random() * (longest / 2)
            else:
                assert isinstance(self.jitter, float)
                yield min(bound, longest * (1.0 - self.jitter + 2.0 * self.jitter * rng.random()))

    def _decorrelated(self, rng: Chance) -> Iterator[float]:
        bound = _bound(self.max)
        delay = self.initial
        while True:
            draw = rng.random()
            # The law's formula, written so that no 0 * infinity can arise from 3 times the largest delay.
            delay = min(bound, (1.0 - draw) * self.initial + 3.0 * (draw * delay))
            yield delay

    def _smooth(self, rng: Chance) -> Iterator[float]:
        bound = _bound(self.max)
        previous = 0.0
        for k in count():  # pragma: no branch  # it never ends
            current = _curve(k + rng.random())
            yield _step(self.initial, previous, current, bound)
            previous = current

    def __repr__(self) -> str:
        jitter = _short(self.jitter) if isinstance(self.jitter, float) else repr(self.jitter)
        factor = "" if self.jitter in ("decorrelated", "smooth") else f"factor={_short(self.factor)}, "
        return f"exponential(initial={_short(self.initial)}, {factor}max={_short(self.max)}, jitter={jitter})"


@attrs.frozen
class Listed:
    """Delays that were written down one by one; the last one repeats."""

    seconds: tuple[float, ...]

    @property
    def jitter(self) -> str:
        """A list is meant exactly."""
        return "none"

    @property
    def peak(self) -> int:
        """The first of the longest delays."""
        return self.seconds.index(max(self.seconds))

    def delays(self, rng: Chance, /) -> Iterator[float]:
        """Return the schedule, which ends."""
        return iter(self.seconds)

    def __repr__(self) -> str:
        return f"[{', '.join(map(_short, self.seconds))}]"


@attrs.frozen
class Drawn:
    """Delays of an iterable without a length, which is asked for a new iterator each time."""

    argument: str
    source: Iterable[object]

    @property
    def jitter(self) -> str:
        """What the caller computes is meant exactly."""
        return "none"

    def delays(self, rng: Chance, /) -> Iterator[float]:
        """Return the schedule; each delay is checked when it is drawn."""
        return (_check_delay(self.argument, delay) for delay in self.source)

    def __repr__(self) -> str:
        return repr(self.source)


def constant(delay: float) -> Constant:
    """Wait equally long before each attempt.

    For calls that nobody else repeats at the same moment. Where many clients share a service, use `exponential`, whose
    chance keeps them apart.

    Args:
      delay (float, seconds, >= 0, finite): every delay, exactly.
    """
    return Constant(check_seconds("delay", delay, finite=True))


def linear(initial: float, step: float, max: float = math.inf) -> Linear:
    """Wait longer by the same step each time: delay k, from 0, is min(max, initial + k * step).

    Gentler than `exponential`, and exact; for polling something that takes its time rather than for an overloaded
    service.

    Args:
      initial (float, seconds, >= 0, finite): the first delay.
      step (float, seconds, >= 0, finite): what each delay is longer by than the one before.
      max (float, seconds, >= initial): bound on every delay. Default: no bound.
    """
    first = check_seconds("initial", initial, finite=True)
    growth = check_seconds("step", step, finite=True)
    return Linear(first, growth, number("max", max, least=first, unit="seconds"))


def exponential(
    initial: float = 0.1,
    factor: float = 2.0,
    max: float = 10.0,
    jitter: JitterName | float = "full",
) -> Exponential:
    """Wait longer by a factor each time, spread by chance.

    The longest delay before retry k, from 0, is e_k = min(max, initial * factor**k): with the defaults 0.1, 0.2, 0.4, …
    10.0 seconds. Chance then keeps clients apart that failed at the same moment, which otherwise come back at the same
    moment.

    ============== ==================================================================================================
    jitter         delay, with U uniform in [0, 1)
    ============== ==================================================================================================
    "none"         e_k
    "full"         U * e_k: spreads best, and often waits almost nothing
    "equal"        e_k/2 + U * e_k/2: never less than half
    a float p      e_k * (1 - p + 2*p*U), at most max: close to e_k, for p = 0.1 within 10 % of it
    "decorrelated" uniform between initial and three times the delay before: grows by what it drew
    "smooth"       spread evenly over a curve that doubles, without the clusters that "full" has near its short delays
    ============== ==================================================================================================

    Args:
      initial (float, seconds, > 0, finite): the first e_k, and the unit of the whole schedule. Default: 0.1.
      factor (float, >= 1, finite): growth for each attempt. "decorrelated" and "smooth" have a growth of their own, so
        that any other than the default is a ValueError there. Default: 2.
      max (float, seconds, >= initial): bound on every delay, jittered ones too. Default: 10.
      jitter ("none", "full", "equal", "decorrelated", "smooth", or a float > 0 and <= 1): how chance spreads. Default:
        "full".

    Source: Marc Brooker, "Exponential Backoff And Jitter" (2015); "smooth" as in Polly and cockatiel.
    """
    first = check_seconds("initial", initial, zero=False, finite=True)
    growth = number("factor", factor, least=1, finite=True)
    spread = _check_jitter(jitter)
    if spread in ("decorrelated", "smooth") and growth != 2.0:
        raise ValueError(
            f"factor must be left at 2 with jitter {spread!r}, which has a growth of its own, not {factor!r}"
        )
    return Exponential(first, growth, number("max", max, least=first, unit="seconds"), spread)


def as_backoff(argument: str, value: object) -> Backoff:
    """Return the backoff that an argument means: an object with `.delays`, or a repeatable iterable of seconds."""
    if callable(getattr(value, "delays", None)) and not isinstance(value, type):
        return value  # type: ignore[return-value]  # that was the check
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise TypeError(f"{argument} must be a backoff or a list of seconds, not {value!r}: write constant({value!r})")
    if isinstance(value, Iterator):
        raise TypeError(
            f"{argument} must be usable more than once, and an iterator is not: "
            f"pass a list of seconds, or constant(), linear() or exponential(), not {value!r}"
        )
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping, Set, type)):
        raise TypeError(
            f"{argument} must be constant(), linear(), exponential(), an object with .delays(rng) "
            f"or a list of seconds, not {value!r}"
        )
    if not isinstance(value, Sized):
        return Drawn(argument, value)
    delays = tuple(_check_delay(argument, delay) for delay in value)
    if not delays:
        raise ValueError(f"{argument} must have at least one delay, not {value!r}")
    return Listed(delays)


def endless(argument: str, delays: Iterator[float]) -> Iterator[float]:
    """Check each delay of a schedule, and repeat its last one when it ends."""
    last = None
    for delay in delays:
        last = _check_delay(argument, delay)
        yield last
    if last is None:
        raise ValueError(f"{argument} must give at least one delay, and gave none")
    yield from repeat(last)


def _check_delay(argument: str, delay: object) -> float:
    return check_seconds(f"each delay of {argument}", delay, finite=True)


def _check_jitter(jitter: object) -> JitterName | float:
    wanted = (
        f"jitter must be one of {', '.join(map(repr, get_args(JitterName)))}, or a number > 0 and <= 1, not {jitter!r}"
    )
    if isinstance(jitter, str):
        if jitter not in get_args(JitterName):
            raise ValueError(wanted)
        return jitter  # type: ignore[return-value]  # one of the names
    if isinstance(jitter, bool) or not isinstance(jitter, (int, float)):
        raise TypeError(wanted)
    if not 0 < jitter <= 1:
        raise ValueError(wanted)
    return float(jitter)


def _short(value: float) -> str:
    return f"{value:.12g}"


def _bound(longest: float) -> float:
    return min(longest, LARGEST)


def _power(base: float, exponent: float) -> float:
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return math.inf


def _curve(t: float) -> float:
    return _power(2.0, t) * math.tanh(math.sqrt(4.0 * t))


def _step(initial: float, previous: float, current: float, bound: float) -> float:
    if current == math.inf:
        return bound
    # tanh and the power are each right to a unit in the last place, so equal draws may seem to go back by one.
    return min(bound, max(0.0, (current - previous) / 1.4 * initial))


def _first(delay: Callable[[int], float], bound: float) -> int:
    """Return the least k at which a growing delay(k) has reached its bound."""
    if delay(0) >= bound:
        return 0
    below, reached = 0, 1
    while delay(reached) < bound:
        below, reached = reached, 2 * reached
    while reached - below > 1:
        middle = (below + reached) // 2
        if delay(middle) < bound:
            below = middle
        else:
            reached = middle
    return reached
