"""The policies of each origin: made by the user's factories when an origin is first seen, and kept while they may matter."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Generic, TypeAlias, TypeVar
from weakref import WeakValueDictionary

import attrs

from .._checks import function
from .._errors import WrongPolicyError
from .._kernel.backoff import exponential
from .._kernel.trip_rules import FailureRatio
from .._policies.bulkhead import Bulkhead, BulkheadStatistics
from .._policies.circuit_breaker import CircuitBreaker, CircuitBreakerStatistics
from .._policies.keyed import Keyed
from .._policies.token_bucket import TokenBucket, TokenBucketStatistics
from ..abc import Policy
from ._gate import is_idle, make_gate

P = TypeVar("P", bound=Policy)
PerOrigin: TypeAlias = Callable[[str], P | None] | Keyed[str, P] | None

MAX_ORIGINS: Final = 1024


@attrs.frozen(kw_only=True)
class OriginStatistics:
    """What a ResilientTransport knows of one origin."""

    origin: str
    """ "https://host:port", without a default port."""
    breaker: CircuitBreakerStatistics | None
    """None if it has none; so the others."""
    bulkhead: BulkheadStatistics | None
    bucket: TokenBucketStatistics | None
    waiting: int
    """Calls that wait because of a 429."""
    paused_for: float
    """Seconds until they go on."""


class Origin:
    """One origin's policies."""

    __slots__ = ("__weakref__", "breaker", "bucket", "bulkhead", "gate", "name")

    def __init__(
        self, name: str, breaker: CircuitBreaker | None, bulkhead: Bulkhead | None, bucket: TokenBucket | None
    ) -> None:
        self.name = name
        self.breaker = breaker
        self.bulkhead = bulkhead
        self.bucket = bucket
        self.gate: TokenBucket | None = None

    def pause(self, seconds: float) -> None:
        """Let nobody through for so long: by the bucket, or by a gate."""
        if self.bucket is not None:
            self.bucket.pause(seconds)
            return
        if self.gate is None:
            self.gate = make_gate(self.name)
        self.gate.pause(seconds)

    def shut_gate(self) -> TokenBucket | None:
        """Return the gate if it is shut, or has a queue; forget it if not."""
        gate = self.gate
        if gate is not None and is_idle(gate):
            self.gate = gate = None
        return gate

    def statistics(self) -> OriginStatistics:
        """Return a snapshot."""
        line = self.bucket or self.gate
        queue = None if line is None else line.statistics()
        return OriginStatistics(
            origin=self.name,
            breaker=None if self.breaker is None else self.breaker.statistics(),
            bulkhead=None if self.bulkhead is None else self.bulkhead.statistics(),
            bucket=None if self.bucket is None else self.bucket.statistics(),
            waiting=0 if queue is None else queue.waiting,
            paused_for=0.0 if queue is None else queue.paused_for,
        )


class Origins:
    """Finds an origin's policies. Holds the origins last used; one that is in use is never made twice."""

    def __init__(self, *, breaker: Any, bulkhead: Any, bucket: Any) -> None:
        self._breaker = _Source("breaker", breaker, CircuitBreaker)
        self._bulkhead = _Source("bulkhead", bulkhead, Bulkhead)
        self._bucket = _Source("bucket", bucket, TokenBucket)
        self._held: OrderedDict[str, Origin] = OrderedDict()
        self._known: WeakValueDictionary[str, Origin] = WeakValueDictionary()

    def __getitem__(self, name: str) -> Origin:
        held = self._held
        origin = held.get(name)
        if origin is not None:
            held.move_to_end(name)
            return origin
        origin = self._known.get(name)
        if origin is None:
            origin = Origin(name, self._breaker.make(name), self._bulkhead.make(name), self._bucket.make(name))
            self._known[name] = origin
        held[name] = origin
        if len(held) > MAX_ORIGINS:
            held.popitem(last=False)
        return origin

    def __len__(self) -> int:
        return len(self._known)

    def statistics(self) -> tuple[OriginStatistics, ...]:
        """Return a snapshot of each."""
        return tuple(origin.statistics() for origin in list(self._known.values()))


class _Source(Generic[P]):
    """Where the policies of one kind come from."""

    __slots__ = ("_argument", "_find", "_kind")

    def __init__(self, argument: str, given: Any, kind: type[P]) -> None:
        wanted = f"{argument} must be a function (origin) -> {kind.__name__}, a Keyed, or None"
        if isinstance(given, Policy) and not isinstance(given, Keyed):
            raise TypeError(
                f"{wanted}, not {given!r}, which every origin would share: "
                f"write {argument}=lambda origin: {kind.__name__}(..., name=origin)"
            )
        if isinstance(given, type):
            raise TypeError(f"{wanted}, not the class {given.__name__}")
        self._argument = argument
        self._kind = kind
        self._find: Callable[[str], Any] | None
        if isinstance(given, Keyed):
            self._find = given.__getitem__
        else:
            self._find = function(argument, given, signature=f"(origin) -> {kind.__name__}")

    def make(self, origin: str) -> P | None:
        """Return an origin's policy, None if it is to have none."""
        if self._find is None:
            return None
        policy = self._find(origin)
        if policy is not None and not isinstance(policy, self._kind):
            raise WrongPolicyError(
                f"{self._argument} must give a {self._kind.__name__} for {origin!r}, or None, not {policy!r}"
            )
        return policy


def default_breaker(origin: str) -> CircuitBreaker:
    """Return the circuit of an origin for which no other was given."""
    return CircuitBreaker(
        trip=FailureRatio(0.5, window=30, min_calls=20),
        open_for=exponential(5, max=60, jitter="none"),
        name=origin,
    )
