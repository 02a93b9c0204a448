"""SharedTokenBucket: a rate limit that many processes keep together.

The server dates each grant: it reserves a slot, and says how long to wait for it. Here a caller sleeps until its slot, once. What
is hard is to lose nothing when a caller is cancelled, on its way to the server, back, or in the line, and yet to hand nothing out
twice: see `line` for what becomes of its slot.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, NoReturn, TypeAlias

import attrs
import trio
from trio.lowlevel import cancel_shielded_checkpoint, enable_ki_protection

from .. import _instruments
from .._checks import function, number, seconds
from .._clock import RunClock
from .._errors import (
    RateLimitedError,
    SharedStateError,
    SharedStateUnavailableError,
    WrongTokensError,
    WrongTokensTypeError,
)
from .._links import Link, check_cancelled, mark_unstarted
from .._policies.token_bucket import Bucketlike, TokenBucket
from ..abc import Policy
from .engine import EngineDownError, Reply, ScriptEngine, ScriptRefusedError
from .line import Line, Waiter
from .together import acquire_together, check_part, key_of
from .token_bucket_scripts import GIVE_BACK, PAUSE, RESERVE, SETTLE, Slots, back, slots_of
from .unavailable import FailClosed, FailOpen, OnUnavailable, check_on_unavailable

_NUMBERS: Final = (int, float)
MOST_AT_ONCE: Final = 1000
"""Reservations in one round trip."""


@attrs.frozen
class Exact:
    """Ask the server for each call: one round trip, and no more than the rate anywhere, at any time."""


@attrs.frozen
class Combine:
    """Ask the server once for all who wait in this process: as exact, and one round trip for many.

    While an answer is under way, newcomers gather for the next. Alone a caller waits no longer than with Exact.
    """


@attrs.frozen
class Lease:
    """Take some tokens ahead and hand them out without asking: no round trip for most calls, and a larger burst.

    In every window all processes together get at most capacity + processes * tokens + rate * window.

    Args:
      tokens (float, > 0): how many a process holds at most. Default: 20.
      max_age (float, seconds, > 0): after so long those that are left are thrown away. Default: 0.1.
    """

    tokens: float = attrs.field(default=20.0)
    max_age: float = attrs.field(default=0.1)

    @tokens.validator
    def _check_tokens(self, attribute: object, value: float) -> None:
        number("tokens", value, above=0, finite=True)

    @max_age.validator
    def _check_age(self, attribute: object, value: float) -> None:
        seconds("max_age", value, zero=False)


Mode: TypeAlias = Exact | Combine | Lease


@attrs.frozen(kw_only=True)
class SharedTokenBucketStatistics:
    """Snapshot of what this process knows of a SharedTokenBucket."""

    name: str
    """Its name."""
    rate: float
    """Tokens that come in each second, for all processes together."""
    capacity: float
    """Most tokens that are saved up."""
    waiting: int
    """Tasks of this process that wait."""
    held: float
    """Tokens that this process has leased and not handed out."""
    granted: int
    """Grants by the server's word, so far."""
    rejected: int
    """Rejections so far."""
    unavailable: int
    """Calls that were decided without the server, because it was away."""
    available: bool
    """Whether the server answers, as far as is known."""


class SharedTokenBucket(Bucketlike):
    """Limits how often things happen over many processes: each takes tokens from one bucket on a server.

    In every window of time, over all processes, whoever is cancelled and whenever, the tokens granted are at most
    capacity + rate * window, by the server's clock; with Lease see there. For one process use a TokenBucket.

    Synopsis::

        async with open_redis("redis://127.0.0.1:6379/0") as engine:
            bucket = SharedTokenBucket(engine, "api", rate=100, capacity=20, on_unavailable=FailLocal())

            async with bucket:                        # one token
                await client.get(url)

            await bucket.acquire(5)

    Fairness: slots are given in the order in which the server was asked. The slot of a caller that is cancelled goes to the next
    in its process whom it is large enough for. Sharing: one object for all tasks of a process; the same name, rate and capacity
    in each process. Cost: a round trip to the server for each call, or fewer, as the mode says.

    Args:
      engine (ScriptEngine): the server, as `open_redis` gives it.
      name (str, without braces): its name in errors, events and statistics, and the name of the state on the server.
      rate (float, tokens a second, > 0): how fast tokens come in, for all processes together. math.inf: no limit.
      capacity (float, tokens, > 0): most that is saved up, and so the largest burst. Default: 1.
      cost ((*args) -> tokens): how many a call takes, from its arguments; 0 passes without asking. For `call` and decorator.
        Default: 1 for each call.
      max_wait (float, seconds, >= 0): a longer wait is refused at once, judged by the server. Default: math.inf.
      mode (Exact, Combine or Lease): how often the server is asked. Default: Exact().
      on_unavailable (FailOpen, FailClosed or FailLocal): what to do when the server is away. Must be given.
      timeout (float, seconds, > 0): how long to wait for the server. Default: 0.05.
      group (str, without braces): buckets of one group lie on the same server of a cluster, as acquire_all wants it there.
        Default: None, each lies where its name says.

    Cancellation: `acquire` and the block are full checkpoints. If they raise, no token was taken, or what was taken goes to
    somebody else. `call` and the decorator check for cancellation, and leave the schedule point to the function unless they wait.

    Raises:
      trioresil.RateLimitedError: the wait would be longer than max_wait; its retry_after is that wait.
      SharedStateUnavailableError: the server is away, and on_unavailable is FailClosed().
      SharedStateError: the server refused: something else lies at the key, or permission is lacking.
      ValueError: more tokens than the capacity are asked for, which could never be granted.

    Source: the generic cell rate algorithm.
    """

    _one_chain = True

    def __init__(
        self,
        engine: ScriptEngine,
        name: str,
        *,
        rate: float,
        capacity: float = 1,
        cost: Callable[..., float] | None = None,
        max_wait: float = math.inf,
        mode: Mode | None = None,
        on_unavailable: OnUnavailable,
        timeout: float = 0.05,
        group: str | None = None,
    ) -> None:
        self.name: str = check_part("name", name)
        self._engine = check_engine(engine)
        self._key = key_of(name, None if group is None else check_part("group", group))
        self._capacity = number("capacity", capacity, above=0, finite=True)
        self.rate = rate
        self._cost = function("cost", cost, signature="(*args) -> tokens")
        self._max_wait = seconds("max_wait", max_wait)
        self._mode = _check_mode(mode)
        self._is_exact = isinstance(self._mode, Exact)
        self._on_unavailable = check_on_unavailable(on_unavailable)
        self._timeout = seconds("timeout", timeout, zero=False)
        self._clock = RunClock(self._meet, occupied=lambda: self._waiting > 0, owner=repr(name))
        self._line = Line()
        self._asking: dict[Waiter, None] = {}  # who waits for the next round trip
        self._carried: list[Waiter] = []  # who waits for the one that is under way
        self._is_asking = self._is_giving_back = False
        self._held = 0.0
        self._held_until = -math.inf
        self._local: TokenBucket | None = None
        self._waiting = 0
        self._granted = self._rejected = self._unavailable = 0

    # -- the primitive ---------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def acquire(self, tokens: float = 1) -> None:
        """Take tokens, waiting until they are there.

        Args:
          tokens (float, > 0, <= capacity): how many. Default: 1.

        Cancellation: if this raises, no token was taken, or what was taken goes to somebody else. A full checkpoint.

        Raises:
          trioresil.RateLimitedError: the wait would be longer than max_wait.
          SharedStateUnavailableError: the server is away, and on_unavailable is FailClosed().
          SharedStateError: the server refused.
          ValueError: tokens is more than the capacity.
        """
        wanted = self._check_tokens("tokens", tokens)
        await check_cancelled()
        if not await self._obtain(wanted):
            await cancel_shielded_checkpoint()

    def adjust(self, tokens: float) -> None:
        """Settle a wrong estimate after the fact. The server hears of it soon, if it is not away.

        Args:
          tokens (float): so many more were used than were taken; below 0: so many fewer, which are given back, up to the
            capacity. A credit may let one window exceed its bound, by at most that credit.
        """
        number("tokens", tokens, finite=True)
        self._engine.start_soon(self._tell, SETTLE, [self._token_time, tokens])

    def pause(self, seconds: float) -> None:
        """Grant nothing for so long, in any process, as when the other side says Retry-After. The server hears of it soon.

        Slots that were given before the server heard of it stay; the wait for them is over as it was.

        Args:
          seconds (float, seconds, >= 0): how long. The first grant of n tokens is n / rate after it. Never shortens an earlier
            pause.
        """
        number("seconds", seconds, least=0, finite=True, unit="seconds")
        self._held = 0.0
        self._engine.start_soon(self._tell, PAUSE, [self._burst, seconds * 1e6])

    @property
    def rate(self) -> float:
        """Tokens a second. May be set: this process's reservations from then on go by it. Set it in all processes."""
        return self._rate

    @rate.setter
    def rate(self, value: float) -> None:
        self._rate = number("rate", value, above=0)
        self._token_time = 1e6 / self._rate  # microseconds
        self._burst = self._capacity * self._token_time

    @property
    def capacity(self) -> float:
        """Most tokens that are saved up."""
        return self._capacity

    # -- the forms -------------------------------------------------------------------------------------------------------

    def link(self, inner: Link) -> Link:
        """Return one link of a chain; see trioresil.abc.Policy."""
        cost = self._cost
        if cost is None:
            self._check_tokens("tokens", 1)

        async def link(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            tokens = 1 if cost is None else self._check_cost(cost(*args, **kwargs))
            if tokens:
                await self._obtain(tokens)
            return await inner(args, kwargs)

        return link

    @enable_ki_protection
    async def __aenter__(self) -> None:
        if self._cost is not None:
            raise WrongTokensError(
                f"{self.name}: a block has no arguments to compute the cost from: write `await bucket.acquire(tokens)`"
            )
        await self.acquire(1)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def statistics(self) -> SharedTokenBucketStatistics:
        """Return a snapshot of what this process knows; the server is not asked."""
        return SharedTokenBucketStatistics(
            name=self.name,
            rate=self._rate,
            capacity=self._capacity,
            waiting=self._waiting,
            held=self._held_at(self._clock.peek()),
            granted=self._granted,
            rejected=self._rejected,
            unavailable=self._unavailable,
            available=self._engine.available,
        )

    def __repr__(self) -> str:
        away = "" if self._engine.available else ", the server is away"
        limit = f"{self._rate:g} tokens/s, capacity {self._capacity:g}"
        return f"<trioresil.redis.SharedTokenBucket {self.name!r} {limit}, {self._waiting} waiting{away}>"

    # -- inside ----------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def _obtain(self, tokens: float) -> bool:
        """Wait for tokens; True if that let other tasks run, or at least may have."""
        if _instruments.installed:
            _instruments.announce(self)
        now = self._clock.read()
        if self._take_held(tokens, now):
            return False
        waiter = Waiter(tokens)
        self._waiting += 1
        try:
            slot = self._line.take_freed(tokens, now, now + self._max_wait) if self._line.freed else None
            if slot is not None:
                self._line.join(waiter, slot)
                await trio.lowlevel.checkpoint()
            elif self._is_exact:
                await self._ask_alone(waiter)
            else:
                await self._ask_together(waiter)
            if waiter.slot is not None and waiter.slot.ready_at > self._clock.read():
                await waiter.wait_until_ready()
            waiter.granted = True
        except BaseException as exc:
            mark_unstarted(exc)
            raise
        finally:
            self._waiting -= 1
            self._leave(waiter)
        if waiter.error is not None:
            await self._without(waiter, waiter.error)
        else:
            self._granted += 1
        return True

    def _take_held(self, tokens: float, now: float) -> bool:
        if self._held < tokens or now > self._held_until:
            return False
        self._held -= tokens
        self._granted += 1
        return True

    def _leave(self, waiter: Waiter) -> None:
        if waiter.slot is None:
            self._asking.pop(waiter, None)
            return
        self._line.leave(waiter, granted=waiter.granted)
        if not waiter.granted:
            self._offer_back()

    # -- asking ----------------------------------------------------------------------------------------------------------

    async def _ask_alone(self, waiter: Waiter) -> None:
        sizes = [waiter.tokens]
        try:
            slots = await self._reserve(sizes, self._extra(waiter.tokens))
        except (EngineDownError, ScriptRefusedError) as exc:
            waiter.error = exc
            return
        self._settle([waiter], slots)

    async def _ask_together(self, waiter: Waiter) -> None:
        """Ask, if nobody does; else gather for the next time."""
        if self._is_asking:
            self._asking[waiter] = None
            await waiter.wait_for_answer()
            return
        self._is_asking = True
        try:
            await self._ask_alone(waiter)
        finally:
            self._is_asking = False
            self._ask_on()

    def _ask_on(self) -> None:
        if self._asking and not self._is_asking:
            self._engine.start_soon(self._ask_for_all)
            self._is_asking = True

    async def _ask_for_all(self) -> None:
        """Carry the requests of all who have gathered to the server, one round trip after the other."""
        try:
            while self._asking:
                self._carried = list(itertools.islice(self._asking, MOST_AT_ONCE))
                for waiter in self._carried:
                    del self._asking[waiter]
                await self._carry(self._carried)
        finally:
            self._is_asking = False
            left = [*self._carried, *self._asking]
            self._asking.clear()
            for waiter in left:  # only if the engine is being closed
                waiter.refuse(RuntimeError(f"{self.name}: its engine {self._engine.name!r} was closed"))

    async def _carry(self, waiters: list[Waiter]) -> None:
        sizes = [each.tokens for each in waiters]
        try:
            slots = await self._reserve(sizes, self._extra(sum(sizes)))
        except (EngineDownError, ScriptRefusedError) as exc:
            for waiter in waiters:
                waiter.refuse(exc)
        else:
            self._settle(waiters, slots)
        self._carried = []

    def _extra(self, tokens: float) -> float:
        if not isinstance(self._mode, Lease):
            return 0.0
        return max(0.0, self._mode.tokens - tokens - self._held_at(self._clock.read()))

    async def _reserve(self, sizes: list[float], extra: float) -> Slots:
        # The answer tells of these, though the rate may change meanwhile.
        token_time, burst = self._token_time, self._burst
        max_wait = -1.0 if self._max_wait == math.inf else self._max_wait * 1e6

        def read(reply: Reply) -> Slots:
            return slots_of(reply, sizes, token_time=token_time, burst=burst, received_at=self._clock.read())

        def take_late(reply: Reply) -> None:
            for slot in read(reply).made:  # for somebody who waits for it no longer
                self._line.free(slot)
            self._offer_back()

        args = [token_time, burst, max_wait, extra, *sizes]
        return read(await self._engine.eval(RESERVE, [self._key], args, within=self._timeout, late=take_late))

    def _settle(self, waiters: list[Waiter], slots: Slots) -> None:
        """Give waiters the slots that were made for them, and refuse those who would have waited too long."""
        for waiter, slot in zip(waiters, slots.made, strict=False):
            self._line.join(waiter, slot)
        rest = waiters[len(slots.made) :]
        again: list[Waiter] = []
        for waiter in rest:
            wait = slots.refused + (waiter.tokens - rest[0].tokens) / self._rate
            if waiter is rest[0] or wait > self._max_wait:
                waiter.refuse(self._too_long(wait))
            else:  # it wants less than the one that was refused, and was not asked for
                again.append(waiter)
        if again:
            self._asking = dict.fromkeys([*again, *self._asking])
        if slots.extra and isinstance(self._mode, Lease):
            now = self._clock.read()
            self._held = self._held_at(now) + slots.extra
            self._held_until = now + self._mode.max_age

    def _held_at(self, now: float) -> float:
        return self._held if now <= self._held_until else 0.0

    def _too_long(self, wait: float) -> RateLimitedError:
        error = RateLimitedError(self.name, wait)
        error.max_wait = self._max_wait
        return error

    # -- giving back -----------------------------------------------------------------------------------------------------

    def _offer_back(self) -> None:
        if not self._is_giving_back and self._line.freed:
            with suppress(RuntimeError):  # the engine is closed, and what is reserved there runs out
                self._engine.start_soon(self._give_back)
                self._is_giving_back = True

    async def _give_back(self) -> None:
        """Give the last slots back to the server, if nobody has reserved any after them. What it doesn't take is kept."""
        try:
            while tail := self._line.take_tail():
                numbers = [part for slot in tail for part in back(slot.end, slot.start)]
                try:
                    count = await self._engine.eval(GIVE_BACK, [self._key], numbers, within=self._timeout)
                except (EngineDownError, ScriptRefusedError):
                    return  # they may have been taken back, so nobody may use them
                for slot in tail[count:]:
                    self._line.free(slot)
                if not count:
                    return
        finally:
            self._is_giving_back = False

    async def _tell(self, script: Any, args: list[float]) -> None:
        try:
            await self._engine.eval(script, [self._key], args, within=self._timeout)
        except (EngineDownError, ScriptRefusedError):
            self._unavailable += 1

    # -- refusing --------------------------------------------------------------------------------------------------------

    async def _without(self, waiter: Waiter, error: Exception) -> None:
        """Do what is to be done for a waiter that got no slot."""
        if isinstance(error, RateLimitedError):
            self._rejected += 1
            await _reject(self, error)
        if isinstance(error, ScriptRefusedError):
            raise SharedStateError(self.name, self._key, str(error)) from None
        if not isinstance(error, EngineDownError):
            raise error
        self._unavailable += 1
        if isinstance(self._on_unavailable, FailOpen):
            return
        if isinstance(self._on_unavailable, FailClosed):
            self._rejected += 1
            await _reject(self, SharedStateUnavailableError(self.name, self._key, str(error)))
        bucket, at_once, later = self.local_demand(waiter.tokens)
        await bucket.acquire(at_once)
        if later:
            bucket.adjust(later)

    def local_demand(self, tokens: float) -> tuple[TokenBucket, float, float]:
        """Return the bucket that decides while the server is away, what to take of it, and what to charge afterwards."""
        share = getattr(self._on_unavailable, "share", 1.0)
        if self._local is None:
            capacity = max(1.0, self._capacity * share)
            self._local = TokenBucket(
                rate=self._rate * share, capacity=capacity, max_wait=self._max_wait, name=f"{self.name} (local)"
            )
        at_once = min(tokens, self._local.capacity)
        return self._local, at_once, tokens - at_once

    @classmethod
    async def _acquire_together(cls, demands: Sequence[tuple[Any, float]]) -> None:
        await acquire_together(demands)

    # -- checks ----------------------------------------------------------------------------------------------------------

    def _check_tokens(self, argument: str, tokens: float) -> float:
        if type(tokens) in _NUMBERS and 0 < tokens <= self._capacity:
            return tokens
        try:
            return number(argument, tokens, above=0, most=self._capacity)
        except TypeError as exc:
            raise WrongTokensTypeError(f"{self.name}: {exc}") from None
        except ValueError as exc:
            never = " (more than the capacity can never be granted)" if tokens > self._capacity else ""
            raise WrongTokensError(f"{self.name}: {exc}{never}") from None

    def _check_cost(self, tokens: float) -> float:
        return 0 if tokens == 0 and tokens is not False else self._check_tokens("the result of cost", tokens)

    def _meet(self, shift: float) -> None:
        """Forget what belongs to the clock of another run."""
        self._line.clear()
        self._held = 0.0


async def _reject(policy: Policy, error: Any) -> NoReturn:
    try:
        await _instruments.reject(policy, error)
    finally:
        del error  # its traceback holds this frame


def check_engine(engine: object) -> ScriptEngine:
    """Return the engine, or say where one comes from."""
    if isinstance(engine, type) or not isinstance(engine, ScriptEngine):
        raise TypeError(f"engine must be what open_redis() or MemoryEngine() gives in `async with`, not {engine!r}")
    return engine


def _check_mode(mode: object) -> Mode:
    if mode is None:
        return Exact()
    if isinstance(mode, Exact | Combine | Lease):
        return mode
    raise TypeError(f"mode must be Exact(), Combine() or Lease(...), not {mode!r}")
