"""open_pool: connections that are made once, kept, and lent to one task at a time.

The law of this file:

1. A connection is in one of four states, each of which is counted: connecting, leased, idle, closing. Together they never
   exceed max_size: whoever holds a slot of the pool's own limiter may take an idle connection, or connect if none is idle, and
   keeps the slot until what he holds is idle again or closed.
2. Own slot first, then the shared one: who waits for other pools keeps nobody of this one waiting behind him for nothing.
3. If entering a block raises, nothing is held. Leaving it gives back a sound connection in the same step; only closing waits.
4. The pool's own tasks (one that clears up, one that fills up) take slots in the same queue as everybody else.
"""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, Generic, Literal, NoReturn, TypeAlias, TypeVar, overload

import attrs
import trio
from trio import CancelScope, CapacityLimiter
from trio.lowlevel import (
    ParkingLot,
    cancel_shielded_checkpoint,
    checkpoint_if_cancelled,
    current_clock,
    current_task,
    disable_ki_protection,
    enable_ki_protection,
)

from .. import _instruments
from .._checks import chance, count, seconds, text, whole
from .._errors import NestingError, PoolClosedError, PoolFullError, TimedOutError, in_another_run
from .._events import ConnectFailed, ConnectionClosed, ConnectionOpened
from .._kernel.backoff import exponential
from .._kernel.stock import Kept, Stock
from .._links import check_cancelled, mark_unstarted, not_let_in
from ._tasks import Tasks

C = TypeVar("C")
R = TypeVar("R", covariant=True)  # what connect returns: a connection, or an awaitable of one
Reason: TypeAlias = Literal["idle", "expired", "discarded", "stale", "closed"]

JITTER: Final = 0.1  # of a lifetime
_FAILED: Final = object()


@attrs.frozen(kw_only=True)
class PoolStatistics:
    """Snapshot of a Pool."""

    name: str
    """Its name."""
    max_size: float
    """How many connections may be open at once."""
    leased: int
    """Connections that are lent, those included that are checked or reset for it."""
    idle: int
    """Connections that wait to be lent."""
    connecting: int
    """Connections that are being made."""
    closing: int
    """Connections that are being closed."""
    waiting: int
    """Tasks in the queue."""
    opened: int
    """Connections made so far."""
    reused: int
    """How often a connection was lent that had been used, or kept warm, before."""
    connect_failed: int
    """Connects that failed so far."""
    rejected: int
    """Rejections so far."""
    last_error: Exception | None
    """What was raised last where no caller sees it: by connect for min_idle, by check, reset or close. None: nothing yet."""
    closed: bool
    """Whether the pool takes in no more work."""


class open_pool(Generic[R]):
    """Keep connections open, and lend each to one task at a time.

    For what is costly to make and serves one user at a time: a TCP or TLS stream, a database connection. For HTTP use
    trioresil.httpx, whose pool knows the protocol. To limit what is cheap to make use a Bulkhead.

    Synopsis::

        async with trioresil.open_pool(connect, max_size=10, reset=rollback) as pool:
            async with pool.connection() as connection:
                await connection.execute("...")

    The newest idle connection is lent first. A block that ends gives its connection back. Cancelled, or left by what is no
    Exception, its connection is in an unknown state and is closed; left by an Exception too, unless `reset` is given, which
    then decides before the next use.

    All functions may be synchronous or async. They are called in the task that needs them, the pool's own if need be.

    Fairness: first come, first served.
    Sharing: any task of the run may use the pool. A block may be left by another task than the one that entered it.

    Args:
      connect (() -> connection): makes one.
      max_size (int >= 1, or math.inf): most connections open at once, those that are idle, being made or closed included.
        Default: 10.
      min_idle (int, 0 to max_size): idle connections that a task of the pool keeps ready. A connect that fails is tried again
        with exponential(), for ever; see statistics().last_error. Default: 0.
      max_idle_time (float, seconds, > 0): an unused connection is closed after so long, except the last min_idle. Default: 60.
      max_lifetime (float, seconds, > 0): a connection is not lent any more after so long, so that changes of names, routes and
        certificates are seen. Each draws its own, up to 10 % shorter, so that they don't all end at once. Default: 1800.
      connect_timeout (float, seconds, > 0): bounds each connect, check and reset. Default: 10.
      max_wait (float, seconds, >= 0): longest wait for a connection to come free, both limits together; the time to connect is
        not in it. Default: math.inf.
      check ((connection) -> bool): asked of an idle connection before it is lent; False or an Exception closes it, and the next
        is taken. Default: None, no check.
      reset ((connection) -> object): makes good what a block that raised an Exception left behind, as ROLLBACK does. It runs
        before the next use, and before `check`; an Exception closes the connection. Default: None, such connections are closed.
      close ((connection) -> object): ends a connection. Default: None, its `aclose()` if it has one, or else its `close()`.
      close_timeout (float, seconds, > 0): longest time that a close may take; nothing cancels it before. Default: 1.
      limiter (trio.CapacityLimiter): a limit on leases that this pool shares with others, taken after its own. Default: None.
      rng (random.Random): chance, for lifetimes and for retries of min_idle. Default: None, seeded by the system.
      name (str): its name in errors, events and statistics. Default: "pool".

    Cancellation: entering checks nothing and waits for nothing. Leaving closes what is idle and what is given back later; it
    lets other tasks run, takes at most close_timeout, and can't be cancelled in that time.

    Source: HikariCP, for lifetime, idle time and minimum; Trio's CapacityLimiter, for the queue.
    """

    def __init__(
        self,
        connect: Callable[[], R],
        *,
        max_size: float = 10,
        min_idle: int = 0,
        max_idle_time: float = 60.0,
        max_lifetime: float = 1800.0,
        connect_timeout: float = 10.0,
        max_wait: float = math.inf,
        check: Callable[[Any], object] | None = None,
        reset: Callable[[Any], object] | None = None,
        close: Callable[[Any], object] | None = None,
        close_timeout: float = 1.0,
        limiter: CapacityLimiter | None = None,
        rng: random.Random | None = None,
        name: str = "pool",
    ) -> None:
        self.name: str = text("name", name)
        self._connect = _callable("connect", connect)
        self._max_size = count("max_size", max_size, infinite=True)
        self._min_idle = whole("min_idle", min_idle, least=0)
        if self._min_idle > self._max_size:
            raise ValueError(f"min_idle must be at most max_size, {self._max_size}, not {min_idle!r}")
        self._max_idle_time = seconds("max_idle_time", max_idle_time, zero=False)
        self._max_lifetime = seconds("max_lifetime", max_lifetime, zero=False)
        self._connect_timeout = seconds("connect_timeout", connect_timeout, zero=False)
        self._max_wait = seconds("max_wait", max_wait)
        self._check = None if check is None else _callable("check", check)
        self._reset = None if reset is None else _callable("reset", reset)
        self._close = _close if close is None else _callable("close", close)
        self._close_timeout = seconds("close_timeout", close_timeout, zero=False, finite=True)
        if limiter is not None and not isinstance(limiter, CapacityLimiter):
            raise TypeError(f"limiter must be a trio.CapacityLimiter, not {limiter!r}")
        self._limiter = limiter
        self._rng = chance("rng", rng) or random.Random()
        self._pool: Pool[Any] | None = None

    @overload
    async def __aenter__(self: open_pool[Awaitable[C]]) -> Pool[C]: ...

    @overload
    async def __aenter__(self: open_pool[C]) -> Pool[C]: ...

    @enable_ki_protection
    async def __aenter__(self) -> Pool[Any]:
        if self._pool is not None:
            raise RuntimeError(f"{self.name}: this pool was opened already: call open_pool() for each `async with`")
        pool: Pool[Any] = Pool(self)
        await pool._tasks.__aenter__()
        self._pool = pool
        pool._start()
        return pool

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        pool = self._pool
        assert pool is not None
        pool._tasks.check_task()
        pool._shut()
        return await pool._tasks.__aexit__(kind, error, traceback)


async def serve_pool(
    connect: Callable[[], object],
    *,
    task_status: trio.TaskStatus[Pool[Any]] = trio.TASK_STATUS_IGNORED,
    **options: Any,
) -> None:
    """Keep a pool open until this is cancelled, for a nursery that outlives the function that starts it.

    Synopsis::

        pool = await nursery.start(functools.partial(trioresil.serve_pool, connect, max_size=5))

    Args:
      connect (() -> connection): makes one.
      task_status: tells the Pool to `nursery.start`.
      **options: what `open_pool` takes.

    Cancellation: closes the pool.
    """
    async with open_pool(connect, **options) as pool:
        task_status.started(pool)
        await trio.sleep_forever()


class Pool(Generic[C]):
    """What `open_pool` opens: lends connections. It is not built by hand.

    Attributes:
      name (str): its name.
    """

    def __init__(self, options: open_pool[Any], /) -> None:
        self.name: str = options.name
        self._options = options
        self._own = CapacityLimiter(options._max_size)
        self._limiters = [self._own, *([] if options._limiter is None else [options._limiter])]
        self._check, self._reset = options._check, options._reset
        self._may_lend_at_once = options._limiter is None and options._check is None
        self._min_idle = options._min_idle
        self._stock: Stock[C] = Stock(options._max_size, options._min_idle, options._max_idle_time)
        self._reused = self._connect_failed = self._rejected = 0
        self._last_error: Exception | None = None
        self._takes_work = self._is_open = True
        self._clock = current_clock()
        self._queue: set[_Lease[C]] = set()
        self._scopes: set[CancelScope] = set()  # of waits that end when the pool does
        self._drained = ParkingLot()
        self._tasks = Tasks(self.name)
        self._clear_up_at = math.inf
        self._clear_up_sooner = self._fill_up = trio.Event()

    def connection(self) -> AbstractAsyncContextManager[C]:
        """Return a block that has a connection: `async with pool.connection() as connection`.

        Cancellation: entering checks for cancellation and is otherwise no checkpoint while a connection is idle and nobody
        waits; else it waits for one to come free, to be made, to be reset and checked. If it raises, nothing is held. Leaving
        is no checkpoint if the connection is kept; a close lets other tasks run and can't be cancelled.

        Raises:
          PoolFullError: none came free within max_wait.
          PoolClosedError: the pool is closed, or was closed in the meantime.
          TimedOutError: connecting took longer than connect_timeout; `started` is False.
          Exception: what `connect` raised.
          RuntimeError: a task would wait while it holds every connection itself, and so for ever.
        """
        return _Lease(self)

    def close_admission(self) -> None:
        """From now on reject new calls. Those inside and those in the queue go on. Synchronous."""
        self._takes_work = False

    def retire(self) -> None:
        """Lend none of the connections again that are open now: idle ones are closed at once, lent ones when they come back.

        For when the other side is known to be sick, or has moved, as a health monitor does with a pool that is tied to a check.
        What is being connected stays. Synchronous.
        """
        now = self._now()
        self._stock.expire(now)
        for lease in self._own.statistics().borrowers:
            if isinstance(lease, _Lease) and (kept := getattr(lease, "_kept", None)) is not None:
                kept.expires_at = min(kept.expires_at, now)
        if self._stock.idle:
            self._clear_up_at = now
            self._clear_up_sooner.set()

    async def wait_drained(self) -> None:
        """Wait until no connection is lent and nobody waits for one.

        Cancellation: a full checkpoint; nothing changes.
        """
        await check_cancelled()
        if not self._is_busy():
            await cancel_shielded_checkpoint()
        while self._is_busy():
            await self._drained.park()

    def statistics(self) -> PoolStatistics:
        """Return a snapshot; works outside of a run."""
        stock = self._stock
        return PoolStatistics(
            name=self.name,
            max_size=self._own.total_tokens,
            leased=stock.leased,
            idle=stock.idle,
            connecting=stock.connecting,
            closing=stock.closing,
            waiting=self._waiting(),
            opened=stock.opened,
            reused=self._reused,
            connect_failed=self._connect_failed,
            rejected=self._rejected,
            last_error=self._last_error,
            closed=not self._takes_work,
        )

    def __repr__(self) -> str:
        stock = self._stock
        states = [f"{stock.leased}/{self._own.total_tokens:g} leased", f"{stock.idle} idle"]
        states += [f"{stock.connecting} connecting"] if stock.connecting else []
        states += [f"{stock.closing} closing"] if stock.closing else []
        closed = "" if self._takes_work else ", closed"
        return f"<trioresil.Pool {self.name!r} {', '.join(states)}, {self._waiting()} waiting{closed}>"

    # -- lending ---------------------------------------------------------------------------------------------------------

    def _lend_at_once(self, lease: _Lease[C]) -> Kept[C] | None:
        """Lend the newest idle connection if nothing is to be waited for; else return None, and nothing has happened."""
        kept = self._stock.newest()
        if (
            kept is None
            or not (self._may_lend_at_once and self._takes_work)
            or kept.is_dirty
            or kept.is_expired(self._now())
        ):
            return None
        try:
            self._own.acquire_on_behalf_of_nowait(lease)
        except trio.WouldBlock:
            return None
        self._stock.lease()
        self._reused += 1
        if self._min_idle:
            self._wake_filler()
        return kept

    async def _lend(self, lease: _Lease[C]) -> Kept[C]:
        """Lend a connection; if this raises, nothing is held."""
        if not self._takes_work:
            await self._reject(PoolClosedError(self.name))
        self._now()
        held: list[CapacityLimiter] = []
        try:
            await self._get_slots(lease, held)
            kept = await self._take_usable() or await self._connect()
            if kept is None:  # the pool was closed
                await self._reject(PoolClosedError(self.name))
            return kept
        except BaseException as exc:
            mark_unstarted(exc)
            self._release(lease, held)
            raise

    async def _get_slots(self, lease: _Lease[C], held: list[CapacityLimiter]) -> None:
        """Get a slot of each limiter; `held` says how far it came."""
        for limiter in self._limiters:
            try:
                limiter.acquire_on_behalf_of_nowait(lease)
            except trio.WouldBlock:
                break
            held.append(limiter)
        else:
            return
        max_wait = self._options._max_wait
        if max_wait > 0:
            self._refuse_self_wait(lease.task, held)
            self._queue.add(lease)
            try:
                await self._bounded(max_wait, _acquire_rest, self._limiters, lease, held)
            finally:
                self._queue.remove(lease)
        if len(held) == len(self._limiters):
            return
        if not self._is_open:
            await self._reject(PoolClosedError(self.name))
        await self._reject(_full(self.name, max_wait))

    async def _take_usable(self) -> Kept[C] | None:
        """Take the newest idle connection that is sound; the others are closed."""
        while (kept := self._stock.lease()) is not None:
            try:
                wrong = await self._what_is_wrong(kept)
            except BaseException:
                await self._discard(kept, "discarded")
                raise
            if wrong is None and self._is_open:
                self._reused += 1
                self._wake_filler()
                return kept
            await self._discard(kept, wrong or "closed")
        return None

    async def _what_is_wrong(self, kept: Kept[C]) -> Reason | None:
        if kept.is_expired(self._now()):
            return "expired"
        if kept.is_dirty and await self._ask(self._reset, kept) is _FAILED:
            return "discarded"
        answer = True if self._check is None else await self._ask(self._check, kept)
        return "stale" if answer is _FAILED or answer is False else None

    async def _ask(self, fn: Any, kept: Kept[C]) -> Any:
        """Call check or reset; _FAILED if it raised an Exception or took too long."""
        try:
            return await self._bounded(self._options._connect_timeout, fn, kept.connection)
        except Exception as exc:
            self._last_error = exc
            return _FAILED

    async def _connect(self) -> Kept[C] | None:
        """Make a connection; None if the pool was closed in the meantime."""
        if not self._is_open:
            return None
        options, began_at = self._options, self._now()
        self._stock.begin_connecting()
        connection: Any = _FAILED
        try:
            connection = await self._bounded(options._connect_timeout, options._connect)
            if connection is _FAILED and self._is_open:
                raise TimedOutError(self.name, options._connect_timeout, started=False)
        except Exception as exc:
            self._connect_failed += 1
            _instruments.emit(ConnectFailed, policy=self, origin=None, error=exc)
            raise
        finally:
            if connection is _FAILED:
                self._stock.fail_connecting()
                self._wake_filler()
        if connection is _FAILED:
            return None
        now, lifetime = self._now(), options._max_lifetime * (1 - JITTER * options._rng.random())
        kept = self._stock.lease_new(connection, now, lifetime)
        _instruments.emit(ConnectionOpened, policy=self, origin=None, seconds=now - began_at)
        if self._is_open:
            return kept
        await self._discard(kept, "closed")
        return None

    # -- giving back -----------------------------------------------------------------------------------------------------

    def _keep(self, kept: Kept[C]) -> None:
        """Make a connection idle."""
        due_at = self._stock.keep(kept, self._clock.current_time())
        if due_at < self._clear_up_at:
            self._clear_up_at = due_at
            self._clear_up_sooner.set()

    async def _discard(self, kept: Kept[C], reason: Reason) -> None:
        """Close a connection, for at most close_timeout; nothing cancels that."""
        self._stock.begin_closing()
        began_at = self._clock.current_time()
        try:
            with CancelScope(deadline=began_at + self._options._close_timeout, shield=True):
                await _call(self._options._close, kept.connection)
        except Exception as exc:
            self._last_error = exc
        finally:
            self._stock.end_closing()
            self._wake_filler()
            _instruments.emit(ConnectionClosed, policy=self, origin=None, reason=reason, age=began_at - kept.opened_at)

    def _release(self, lease: _Lease[C], held: list[CapacityLimiter]) -> None:
        for limiter in held:
            limiter.release_on_behalf_of(lease)
        if self._drained and not self._is_busy():
            self._drained.unpark_all()

    # -- the pool's own tasks --------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._tasks.start_soon(self._clear_up, name=f"{self.name}: clears up")
        if self._min_idle:
            self._tasks.start_soon(self._keep_filled, name=f"{self.name}: fills up")

    def _shut(self) -> None:
        """Turn everybody away and begin to close what is idle."""
        self._takes_work = self._is_open = False
        for scope in self._scopes:
            scope.cancel(reason=f"{self.name}: the pool is closed")
        while (kept := self._stock.lease()) is not None:
            self._tasks.start_soon(self._discard, kept, "closed")

    async def _clear_up(self) -> None:
        """Close connections when they are due, each in a task of its own."""
        while True:
            while self._clear_up_at > self._now():
                self._clear_up_sooner = trio.Event()
                with trio.move_on_at(self._clear_up_at):
                    await self._clear_up_sooner.wait()
            while self._stock.next_due() <= self._now():
                slot = object()
                await self._own.acquire_on_behalf_of(slot)
                due = self._stock.lease_due(self._now())
                if due is None:  # somebody was faster
                    self._own.release_on_behalf_of(slot)
                else:
                    self._tasks.start_soon(self._discard_and_release, *due, slot)
            self._clear_up_at = self._stock.next_due()  # not before: a busy pool would move it with every use

    async def _discard_and_release(self, kept: Kept[C], reason: Reason, slot: object) -> None:
        try:
            await self._discard(kept, reason)
        finally:
            self._own.release_on_behalf_of(slot)

    async def _keep_filled(self) -> None:
        """Connect whenever fewer than min_idle are idle and there is room."""
        delays = None
        while True:
            while not self._should_fill():
                self._fill_up = trio.Event()
                await self._fill_up.wait()
            try:
                await self._fill_one(object())
                delays = None
                continue
            except Exception as exc:
                self._last_error = exc
            delays = delays or exponential().delays(self._options._rng)
            await trio.sleep(next(delays))

    async def _fill_one(self, slot: object) -> None:
        await self._own.acquire_on_behalf_of(slot)
        try:
            if self._should_fill() and (kept := await self._connect()) is not None:
                self._keep(kept)
        finally:
            self._own.release_on_behalf_of(slot)

    def _should_fill(self) -> bool:
        return self._takes_work and self._stock.lacks_idle()

    def _wake_filler(self) -> None:
        if self._min_idle and self._should_fill():
            self._fill_up.set()

    # -- inside ----------------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        if current_clock() is not self._clock:
            raise in_another_run(repr(self.name))
        return self._clock.current_time()

    async def _bounded(self, allowed: float, fn: Any, *args: Any) -> Any:
        """Call a function and await its result, if need be. _FAILED if time is up or the pool is closed."""
        scope = CancelScope(deadline=self._clock.current_time() + allowed)
        self._scopes.add(scope)
        try:
            with scope:
                return await _call(fn, *args)
        finally:
            self._scopes.remove(scope)
        return _FAILED

    async def _reject(self, error: PoolClosedError | PoolFullError) -> NoReturn:
        self._rejected += 1
        try:
            await _instruments.reject(self, error)
        finally:
            del error  # its traceback holds this frame

    def _refuse_self_wait(self, task: trio.lowlevel.Task, held: list[CapacityLimiter]) -> None:
        borrowers = self._own.statistics().borrowers
        if not held and all(isinstance(each, _Lease) and each.task is task for each in borrowers):
            raise NestingError(
                f"{self.name}: this task holds all {len(borrowers)} connections itself, so it would wait for ever: "
                "hand on the connection that it has, or raise max_size"
            )

    def _is_busy(self) -> bool:
        return bool(self._queue) or any(isinstance(each, _Lease) for each in self._own.statistics().borrowers)

    def _waiting(self) -> int:
        """Count the queue, less those who have been given their last slot and have yet to run."""
        return len(self._queue) - len(self._queue.intersection(self._limiters[-1].statistics().borrowers))


class _Lease(Generic[C]):
    """One use of a connection: the block that the user writes, and the borrower that the limiters know."""

    __slots__ = ("_kept", "_pool", "task")

    _kept: Kept[C]
    task: trio.lowlevel.Task

    def __init__(self, pool: Pool[C]) -> None:
        self._pool = pool

    @enable_ki_protection
    async def __aenter__(self) -> C:
        try:
            await checkpoint_if_cancelled()
        except BaseException as exc:
            not_let_in(exc)
            raise
        pool = self._pool
        if _instruments.installed:
            _instruments.announce(pool)
        self.task = current_task()
        kept = pool._lend_at_once(self)
        if kept is None:
            kept = await pool._lend(self)
        self._kept = kept
        return kept.connection

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pool, kept = self._pool, self._kept
        del self._kept
        try:
            is_sound = error is None or (pool._reset is not None and isinstance(error, Exception))
            if is_sound and pool._is_open:
                kept.is_dirty = error is not None
                pool._keep(kept)
            else:
                await pool._discard(kept, "closed" if is_sound else "discarded")
        finally:
            pool._release(self, pool._limiters)


@enable_ki_protection
async def _acquire_rest(limiters: list[CapacityLimiter], lease: object, held: list[CapacityLimiter]) -> None:
    for limiter in limiters[len(held) :]:
        await limiter.acquire_on_behalf_of(lease)
        held.append(limiter)


@disable_ki_protection  # what is called is the user's
async def _call(fn: Callable[..., Any], *args: Any) -> Any:
    result = fn(*args)
    return await result if inspect.isawaitable(result) else result


def _close(connection: Any) -> Any:
    close = getattr(connection, "aclose", None) or getattr(connection, "close", None)
    return None if close is None else close()


def _full(name: str, max_wait: float) -> PoolFullError:
    error = PoolFullError(name)
    error.max_wait = max_wait
    return error


def _callable(argument: str, value: Any) -> Any:
    if not callable(value):
        raise TypeError(f"{argument} must be a function, sync or async, not {value!r}")
    return value
