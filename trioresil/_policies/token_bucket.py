"""TokenBucket: a rate limit that is waited for in a queue.

The turnstile is a `trio.CapacityLimiter(1)`: who holds it is the head of the queue and sleeps until its tokens are ready; all
others are parked. It gives the queue its order and its safety under cancellation: whoever it is handed to can't be cancelled
any more before it runs, so it can't be lost. Nothing is taken ahead of the grant: a waiter that is cancelled just leaves the
line, and has nothing to give back.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, NoReturn

import attrs
import trio
from trio import CancelScope
from trio.lowlevel import cancel_shielded_checkpoint, enable_ki_protection

from .. import _instruments
from .._checks import function, number, seconds, text
from .._clock import RunClock
from .._errors import RateLimitedError, WrongTokensError, WrongTokensTypeError
from .._kernel.instants import remaining
from .._kernel.token_bucket import Bucket
from .._links import Link, check_cancelled, looked_through, mark_unstarted
from ..abc import Policy

_NUMBERS: Final = (int, float)
_order = itertools.count()


@attrs.frozen(kw_only=True)
class TokenBucketStatistics:
    """Snapshot of a TokenBucket."""

    name: str
    """Its name."""
    tokens: float
    """Tokens in the bucket; below 0 after a charge."""
    capacity: float
    """Most tokens that it holds."""
    rate: float
    """Tokens that come in each second."""
    waiting: int
    """Tasks in the queue."""
    waiting_tokens: float
    """Tokens that they wait for, together."""
    paused_for: float
    """Seconds until a pause ends; 0 if there is none."""
    granted: int
    """Grants so far."""
    rejected: int
    """Rejections so far."""


class Bucketlike(Policy):
    """What `acquire_all` takes tokens from: buckets of one kind, in this process or shared."""

    @abstractmethod
    def _check_tokens(self, argument: str, tokens: float) -> float: ...

    @classmethod
    @abstractmethod
    async def _acquire_together(cls, demands: Sequence[tuple[Any, float]]) -> None:
        """Take tokens from several, all or nothing; the numbers are checked, and no bucket comes twice."""


class TokenBucket(Bucketlike):
    """Limits how often things happen: each takes tokens, which come in at a fixed rate and are saved up to a capacity.

    Who finds too few tokens waits in a queue, in the order of arrival whatever the amounts. In every window of time, whoever
    cancels and whenever, the tokens granted are at most capacity + rate * (window + 0.01 s): the hundredth of a second is what
    keeps the full rate in spite of timers that wake up late. To limit how many run *at once* use a Bulkhead.

    Synopsis::

        bucket = trioresil.TokenBucket(rate=10, capacity=20)

        async with bucket:                        # one token
            await client.get(url)

        await bucket.acquire(5)

        @trioresil.TokenBucket(rate=90_000 / 60, capacity=10_000, cost=lambda prompt: len(prompt) / 4)
        async def complete(prompt): ...

    Fairness: first come, first served; a cancelled waiter delays nobody. Sharing: one object for all tasks that the limit is
    for. Cost: no task, no timer but the one of the waiter at the head.

    Args:
      rate (float, tokens a second, > 0): how fast tokens come in. math.inf: no limit.
      capacity (float, tokens, > 0): most that is saved up, and so the largest burst. Default: 1.
      cost ((*args) -> tokens): how many a call takes, from its arguments; 0 passes without queueing. For `call` and decorator.
        Default: 1 for each call.
      max_wait (float, seconds, >= 0): a longer wait is refused at once, judged on joining the queue. Default: math.inf.
      name (str): its name in errors, events and statistics. Default: "token-bucket".

    Cancellation: `acquire` and the block are full checkpoints. If they raise, no token was taken. `call` and the decorator
    check for cancellation, and leave the schedule point to the function unless they wait.

    Raises:
      RateLimitedError: the wait would be longer than max_wait; its retry_after is that wait.
      ValueError: more tokens than the capacity are asked for, which could never be granted.

    Source: the generic cell rate algorithm.
    """

    _one_chain = True

    def __init__(
        self,
        *,
        rate: float,
        capacity: float = 1,
        cost: Callable[..., float] | None = None,
        max_wait: float = math.inf,
        name: str = "token-bucket",
    ) -> None:
        self.name: str = text("name", name)
        self._level = Bucket(rate, capacity)
        self._cost = function("cost", cost, signature="(*args) -> tokens")
        self._max_wait = seconds("max_wait", max_wait)
        self._clock = RunClock(self._level.shift, occupied=lambda: self._waiting > 0, owner=repr(name))
        self._order = next(_order)
        self._turnstile = trio.CapacityLimiter(1)
        self._head: _Waiter | None = None
        self._waiting = 0
        self._waiting_tokens = 0.0
        self._granted = 0
        self._rejected = 0

    # -- the primitive ---------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def acquire(self, tokens: float = 1) -> None:
        """Take tokens, waiting in the queue until they are there.

        Args:
          tokens (float, > 0, <= capacity): how many. Default: 1.

        Cancellation: if this raises, no token was taken. A full checkpoint.

        Raises:
          RateLimitedError: the wait would be longer than max_wait.
          ValueError: tokens is more than the capacity.
        """
        await _acquire(((self, self._check_tokens("tokens", tokens)),))

    def acquire_nowait(self, tokens: float = 1) -> None:
        """Take tokens if they are there and nobody is waiting.

        Args:
          tokens (float, > 0, <= capacity): how many. Default: 1.

        Raises:
          trio.WouldBlock: they are not.
          ValueError: tokens is more than the capacity.
        """
        wanted = self._check_tokens("tokens", tokens)
        if _instruments.installed:
            _instruments.announce(self)
        if not self._take_now(wanted):
            raise trio.WouldBlock

    def adjust(self, tokens: float) -> None:
        """Settle a wrong estimate after the fact.

        Args:
          tokens (float): so many more were used than were taken (the level may go below 0); below 0: so many fewer, which are
            given back, up to the capacity. A credit given after the bucket has refilled may let one window exceed its bound, by
            at most that credit.
        """
        number("tokens", tokens, finite=True)
        self._level.adjust(tokens, self._clock.read(), queued=self._waiting > 0)
        self._retime()

    def pause(self, seconds: float) -> None:
        """Grant nothing for so long, as when the other side says Retry-After; the queue keeps its order.

        Args:
          seconds (float, seconds, >= 0): how long. The first grant of n tokens is n / rate after it. Never shortens an earlier
            pause.
        """
        number("seconds", seconds, least=0, finite=True, unit="seconds")
        self._level.pause(seconds, self._clock.read())
        self._retime()

    @property
    def rate(self) -> float:
        """Tokens a second. May be set at any time: the level stays, and the queue moves at the new rate at once."""
        return self._level.rate

    @rate.setter
    def rate(self, value: float) -> None:
        self._level.set_rate(value, self._clock.read_or_last())
        self._retime()

    @property
    def capacity(self) -> float:
        """Most tokens that are saved up."""
        return self._level.capacity

    # -- the forms -------------------------------------------------------------------------------------------------------

    def link(self, inner: Link) -> Link:
        """Return one link of a chain; see trioresil.abc.Policy."""
        cost = self._cost
        if cost is None:
            self._check_tokens("tokens", 1)

        async def link(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            if _instruments.installed:
                _instruments.announce(self)
            tokens = 1 if cost is None else self._check_cost(cost(*args, **kwargs))
            if tokens and not self._take_now(tokens):
                await _queue(((self, tokens),))
            return await inner(args, kwargs)

        return link

    @enable_ki_protection
    async def __aenter__(self) -> None:
        if self._cost is not None:
            raise WrongTokensError(
                f"{self.name}: a block has no arguments to compute the cost from: write `await bucket.acquire(tokens)`"
            )
        await _acquire(((self, self._check_tokens("tokens", 1)),))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def statistics(self) -> TokenBucketStatistics:
        """Return a snapshot; works outside of a run, as of the last use."""
        now = self._clock.peek()
        return TokenBucketStatistics(
            name=self.name,
            tokens=self._level.level(now),
            capacity=self._level.capacity,
            rate=self._level.rate,
            waiting=self._waiting,
            waiting_tokens=self._waiting_tokens,
            paused_for=self._level.paused_for(now),
            granted=self._granted,
            rejected=self._rejected,
        )

    def __repr__(self) -> str:
        now = self._clock.peek()
        paused = self._level.paused_for(now)
        pause = f", paused for {paused:.4g} s" if paused else ""
        level = f"{self._level.level(now):.4g}/{self._level.capacity:g} tokens"
        return f"<trioresil.TokenBucket {self.name!r} {level}, {self._waiting} waiting{pause}>"

    # -- inside ----------------------------------------------------------------------------------------------------------

    @classmethod
    async def _acquire_together(cls, demands: Sequence[tuple[Any, float]]) -> None:
        await _acquire(tuple(sorted(demands, key=lambda pair: pair[0]._order)))

    def _check_tokens(self, argument: str, tokens: float) -> float:
        capacity = self._level.capacity
        if type(tokens) in _NUMBERS and 0 < tokens <= capacity:
            return tokens
        try:
            return number(argument, tokens, above=0, most=capacity)
        except TypeError as exc:
            raise WrongTokensTypeError(f"{self.name}: {exc}") from None
        except ValueError as exc:
            never = " (more than the capacity can never be granted)" if tokens > capacity else ""
            raise WrongTokensError(f"{self.name}: {exc}{never}") from None

    def _check_cost(self, tokens: float) -> float:
        return 0 if tokens == 0 and tokens is not False else self._check_tokens("the result of cost", tokens)

    @enable_ki_protection
    def _take_now(self, tokens: float) -> bool:
        if self._waiting:
            return False
        now = self._clock.read()
        if self._level.ready_at(tokens, now, False) > now:
            return False
        self._level.take(tokens, now, False)
        self._granted += 1
        return True

    def _wait_for(self, tokens: float, now: float) -> float:
        """Return how long a newcomer would wait, as things stand."""
        return remaining(now, self._level.ready_at(self._waiting_tokens + tokens, now, True))

    def _leave(self, tokens: float) -> None:
        self._waiting -= 1
        self._waiting_tokens = self._waiting_tokens - tokens if self._waiting else 0.0

    def _retime(self) -> None:
        if self._head is not None:
            self._head.retime()


Demands = tuple[tuple[TokenBucket, float], ...]


@enable_ki_protection
@looked_through
async def acquire_all(*demands: tuple[Bucketlike, float]) -> None:
    """Take tokens from several buckets, all or nothing.

    The buckets are TokenBuckets, or SharedTokenBuckets of one engine; those take one step on the server.

    While this waits it holds its place at the head of each queue that it has reached, in one fixed order of the buckets whatever
    the order of the arguments, so that opposite orders can't block each other.

    Synopsis::

        await trioresil.acquire_all((requests, 1), (tokens, 1500))

    Fairness: FIFO among calls of acquire_all. A single acquire of a later bucket may go before one that still waits for an
    earlier one.

    Args:
      *demands (tuples of a bucket and float): each bucket and how many tokens of it, > 0 and at most its capacity.

    Cancellation: if this raises, no bucket was charged. A full checkpoint.

    Raises:
      RateLimitedError: a bucket's max_wait is shorter than the wait for it, judged for each on entry; retry_after is the
        longest of the waits, a lower bound of the whole.
      ValueError: no bucket, the same bucket twice, or more tokens than a bucket's capacity.
    """
    if not demands:
        raise WrongTokensError("acquire_all needs at least one (bucket, tokens) pair")
    for each in demands:
        if not _is_demand(each):
            raise TypeError(f"acquire_all takes pairs of a TokenBucket and a number of tokens, not {each!r}")
    together = type(demands[0][0])._acquire_together
    if any(type(bucket)._acquire_together != together for bucket, _ in demands):
        raise TypeError("acquire_all takes buckets of one kind: TokenBuckets, or SharedTokenBuckets of one engine")
    checked = tuple((bucket, bucket._check_tokens("tokens", tokens)) for bucket, tokens in demands)
    if len({id(bucket) for bucket, _ in checked}) < len(checked):
        raise WrongTokensError("acquire_all was given the same bucket twice: add its tokens up")
    await together(checked)


def _is_demand(candidate: object) -> bool:
    return isinstance(candidate, tuple) and len(candidate) == 2 and isinstance(candidate[0], Bucketlike)


class _Waiter:
    """One call in the queues of one or more buckets, and the scope that it sleeps in at their heads."""

    __slots__ = ("_demands", "_scope")

    def __init__(self, demands: Demands) -> None:
        self._demands = demands

    async def sleep_until(self, ready_at: float) -> None:
        """Sleep at the head of all queues until the tokens are there, as things stand."""
        with CancelScope(deadline=ready_at) as self._scope:
            for bucket, _ in self._demands:
                bucket._head = self
            try:
                await trio.sleep_forever()
            finally:
                for bucket, _ in self._demands:
                    bucket._head = None

    def retime(self) -> None:
        """Move the end of the sleep, as the level or the rate of a bucket has changed."""
        self._scope.deadline = _ready_at(self._demands, True)[0]


async def _acquire(demands: Demands) -> None:
    await check_cancelled()
    if _instruments.installed:
        for bucket, _ in demands:
            _instruments.announce(bucket)
    if _take_all_now(demands) or not await _queue(demands):
        await cancel_shielded_checkpoint()


def _take_all_now(demands: Demands) -> bool:
    for bucket, _ in demands:
        if bucket._waiting:
            return False
    return _grant_if_ready(demands, False) is None


@enable_ki_protection
async def _queue(demands: Demands) -> bool:
    """Wait for a grant in the queues of these buckets; True if that let other tasks run."""
    for bucket, tokens in demands:
        now = bucket._clock.read()  # refuses the tasks of another run
        if bucket._max_wait != math.inf and bucket._wait_for(tokens, now) > bucket._max_wait:
            await _refuse(bucket, demands, now)
    for bucket, tokens in demands:
        bucket._waiting += 1
        bucket._waiting_tokens += tokens
    waiter = _Waiter(demands)
    held = 0
    others_ran = False
    try:
        for bucket, _ in demands:
            if bucket._turnstile.borrowed_tokens:
                others_ran = True
                await bucket._turnstile.acquire_on_behalf_of(waiter)
            else:  # `acquire` would pass a checkpoint; this is five times as fast
                bucket._turnstile.acquire_on_behalf_of_nowait(waiter)
            held += 1
        while (ready_at := _grant_if_ready(demands, True)) is not None:
            others_ran = True
            await waiter.sleep_until(ready_at)
        return others_ran
    except BaseException as exc:
        mark_unstarted(exc)
        raise
    finally:
        for bucket, tokens in demands:
            if held:
                held -= 1
                bucket._turnstile.release_on_behalf_of(waiter)
            bucket._leave(tokens)


async def _refuse(bucket: TokenBucket, demands: Demands, now: float) -> NoReturn:
    bucket._rejected += 1
    error = RateLimitedError(bucket.name, max(each._wait_for(tokens, now) for each, tokens in demands))
    error.max_wait = bucket._max_wait
    try:
        await _instruments.reject(bucket, error)
    finally:
        del error  # its traceback holds this frame


def _grant_if_ready(demands: Demands, queued: bool) -> float | None:
    """Take all tokens now and return None, or return when they will be there."""
    ready_at, now = _ready_at(demands, queued)
    if ready_at > now:
        return ready_at
    for bucket, tokens in demands:
        bucket._level.take(tokens, now, queued)
        bucket._granted += 1
    return None


def _ready_at(demands: Demands, queued: bool) -> tuple[float, float]:
    ready_at = now = -math.inf
    for bucket, tokens in demands:
        now = bucket._clock.read()
        ready_at = max(ready_at, bucket._level.ready_at(tokens, now, queued))
    return ready_at, now
